# To build for aarch64 on another machine, with Debian's cross compiler (package gcc-aarch64-linux-gnu):
#     cmake --preset aarch64 && cmake --build --preset aarch64
# Cargo needs Rust's standard library for aarch64-unknown-linux-gnu (rustup target add, or Debian's libstd-rust-web-dev:arm64).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
