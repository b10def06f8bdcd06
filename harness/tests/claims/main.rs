//! What the book says about namespaces, asserted against a real kernel. Each
//! claim has a fresh machine of its own, and in the same test a control that
//! shows that the claim could have failed.

#[path = "../common/mod.rs"]
mod common;
mod target;

mod advice;
mod chain;
mod check;
mod checkout;
mod clone;
mod contract;
mod delivered;
mod facts;
mod faults;
mod ipc;
mod laboratory;
mod maps;
mod mount;
mod net;
mod pid;
mod programs;
mod propagation;
mod readers;
mod report;
mod saved;
mod signals;
mod traces;
mod unpacked;
mod user;
mod uts;
mod versions;
mod vm;
