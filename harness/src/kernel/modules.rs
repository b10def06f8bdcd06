//! A kernel's modules, and those that they need.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::image::decompress;
use crate::failure::Failure;

/// A kernel module.
#[derive(Debug, PartialEq)]
pub struct Module {
    /// As lsmod(8) has it: with `_` where the file may have `-`.
    pub name: String,
    /// The file on this machine, perhaps compressed.
    pub path: PathBuf,
    /// What the kernel loads: an ELF file.
    pub bytes: Vec<u8>,
}

/// The modules with these names that are below `dir`, and those that they need.
/// Each comes after what it needs. A module that is missing is left out: it may
/// be built into the kernel.
///
/// # Errors
/// If the file of one cannot be read or unpacked.
pub fn find(dir: &Path, names: &[&str]) -> Result<Vec<Module>, Failure> {
    let mut files = BTreeMap::new();
    list_modules(dir, &mut files);
    let mut found = Vec::new();
    for name in names {
        add_module(name, &files, &mut found)?;
    }
    Ok(found)
}

/// All modules below `dir`, by name.
fn list_modules(dir: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list_modules(&path, files);
        } else if let Some((name, _)) =
            entry.file_name().to_string_lossy().split_once(".ko")
        {
            files.insert(name.replace('-', "_"), path);
        }
    }
}

fn add_module(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    found: &mut Vec<Module>,
) -> Result<(), Failure> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if found.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let bytes = fs::read(path).and_then(|bytes| match bytes.get(..4) {
        Some(b"\x7fELF") => Ok(bytes),
        _ => decompress(&bytes),
    });
    let bytes = bytes.map_err(|error| {
        Failure::new(format!("module {}: {error}", path.display()))
    })?;
    for name in needs(&bytes) {
        add_module(&name, files, found)?;
    }
    let (name, path) = (name.to_string(), path.clone());
    found.push(Module { name, path, bytes });
    Ok(())
}

/// The modules that a module needs: `depends=` in its section `.modinfo`,
/// a list of zero-terminated strings (include/linux/module.h).
fn needs(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = memchr::memmem::find(module, key) else { return vec![] };
    let list = &module[at + key.len()..];
    let end = list.iter().position(|byte| *byte == 0).unwrap_or(0);
    let list = String::from_utf8_lossy(&list[..end]);
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
pub mod tests {
    use super::super::image::tests::gzip;
    use super::*;

    pub fn file(path: PathBuf, bytes: &[u8]) -> PathBuf {
        let dir = path.parent().expect("a folder");
        fs::create_dir_all(dir).expect("a folder");
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// The part of a module that is read: the modules that it needs.
    pub fn module(depends: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0name=it\0");
        [&b"\x7fELF .modinfo\0"[..], info.as_bytes()].concat()
    }

    #[test]
    fn modules_come_after_those_that_they_need() {
        let root = tempfile::tempdir().expect("a folder");
        let net = root.path().join("net");
        file(net.join("bridge/bridge.ko"), &module("stp,x-llc"));
        file(net.join("stp.ko"), &module("x-llc"));
        file(net.join("x-llc.ko"), &module(""));
        file(net.join("other.ko"), &module("bridge"));
        let found = find(root.path(), &["bridge", "stp"]).expect("read");
        let names: Vec<&str> = found.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["x_llc", "stp", "bridge"]);
        let twice = find(root.path(), &["x_llc", "x_llc"]).expect("read");
        assert_eq!(twice.len(), 1);

        file(net.join("stp.ko"), b"rubbish");
        assert!(find(root.path(), &["bridge"]).is_err());
    }

    #[test]
    fn compressed_module_is_unpacked() {
        let root = tempfile::tempdir().expect("a folder");
        // The first bytes decide, and not the end of the file's name.
        let path = root.path().join("dummy.ko.xz");
        file(path, &gzip(&module("")));
        let found = find(root.path(), &["dummy"]).expect("read");
        assert_eq!(found[0].bytes, module(""));
    }
}
