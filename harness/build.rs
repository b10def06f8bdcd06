//! Passes `HARNESS_TARGET=here` to the compiler. With it, claims that must run
//! in a throw-away machine are *ignored*, and counted as ignored, instead of
//! passing without a try.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HARNESS_TARGET");
    println!("cargo::rustc-check-cfg=cfg(target_here)");
    match env::var("HARNESS_TARGET").as_deref() {
        Ok("here") => println!("cargo::rustc-cfg=target_here"),
        Ok("vm") | Err(_) => {}
        Ok(other) => {
            println!("cargo::error=HARNESS_TARGET is {other:?}: vm or here?");
        }
    }
}
