# Ends containerd, and waits for that.
pid=$(cat "$target/pid")
kill "$pid"
while [ -e "/proc/$pid/exe" ]; do sleep 0.1; done
