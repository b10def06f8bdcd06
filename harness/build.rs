//! Makes `HARNESS_GROUND=here` known to the compiler, so that claims which
//! only a throw-away machine may try are *ignored* on this one, and counted
//! as such, instead of passing without having been tried.

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
