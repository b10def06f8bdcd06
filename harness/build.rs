//! Passes `HARNESS_GROUND=here` to the compiler. With it, claims that must run
//! in a throw-away machine are *ignored*, and counted as ignored, instead of
//! passing without a try.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HARNESS_GROUND");
    println!("cargo::rustc-check-cfg=cfg(ground_here)");
    match env::var("HARNESS_GROUND").as_deref() {
        Ok("here") => println!("cargo::rustc-cfg=ground_here"),
        Ok("vm") | Err(_) => {}
        Ok(other) => {
            println!("cargo::error=HARNESS_GROUND is {other:?}: vm or here?");
        }
    }
}
