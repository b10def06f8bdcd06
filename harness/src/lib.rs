//! A throw-away virtual machine of the reader's own kernel and tools, in which
//! to prove what a namespace does, and to try what would damage a machine.
//!
//! [`Harness::new`] finds a kernel (`kernel/`), QEMU and the tools, or fetches
//! what is missing (`packages.rs`, `apt.rs`, `overlay.rs`). [`Harness::start`]
//! packs, once, what is in the machine (`contents.rs`) into an initramfs
//! (`initramfs.rs`, `libraries.rs`), boots it (`qemu.rs`, `machine.rs`) and keeps
//! its state (`harness/make.rs`, `cache.rs`); it starts a machine from this
//! state, a [`Vm`], and delivers what has changed since and the reader's files
//! (`files.rs`).
//! [`Vm::run`] sends a [`Request`] over the wire (`wire.rs`) to the [`guest`]'s
//! PID 1, which runs the command and reports how it ended.

mod accelerator;
mod apt;
mod arch;
mod cache;
mod contents;
mod elf;
mod env;
mod failure;
mod files;
pub mod guest;
mod harness;
mod initramfs;
mod kernel;
mod libraries;
mod machine;
mod newc;
mod overlay;
mod packages;
mod programs;
mod progress;
mod qemu;
mod room;
mod sparse;
mod stamp;
pub mod streams;
mod terminal;
mod vm;
mod window;
mod wire;

pub use env::{all_known, patience};
pub use failure::{Failure, printable};
pub use harness::Harness;
pub use programs::DEMOS;
pub use terminal::Terminal;
pub use vm::{Io, Vm};
pub use wire::{End, Request, User};
