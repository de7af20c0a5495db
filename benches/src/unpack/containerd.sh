# Starts containerd on $target, gives it $image, and writes the script $target/unpack.
setsid containerd --root "$target/root" --state "$target/state" --address "$target/socket" --log-level error \
    >"$target/log" 2>&1 </dev/null &
echo $! >"$target/pid"
for _ in $(seq 600); do
    ctr -a "$target/socket" version >/dev/null 2>&1 && break
    sleep 0.1
done
tar -C "$image" -cf - . | ctr -a "$target/socket" images import --no-unpack - >/dev/null
digest=$(ctr -a "$target/socket" images ls | awk 'NR == 2 { print $3 }')
echo "exec ctr -a '$target/socket' snapshots unpack $digest" >"$target/unpack"
