fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libgraphdriver.so.1");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic-functions");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
