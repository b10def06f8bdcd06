//! Tools that this machine lacks, unpacked into a root directory of their own,
//! which lies over this machine's: a tool has its usual path in the guest, and
//! so have its libraries.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs, io};

use crate::arch::Arch;
use crate::contents::Tools;
use crate::elf::{Elf, elf};
use crate::env::on_path;
use crate::packages::{Wanted, unpacked};

/// Where the tools are unpacked that this machine lacks.
static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// The folder of a root directory in which are programs that start QEMU and
/// depmod(8), with their libraries, on this machine.
const RUN: &str = "run";

/// Fetches the packages of tools that this machine lacks, where apt can, unless
/// another user has them in the folder `theirs`: [`find`] finds them from then
/// on.
///
/// # Errors
/// What failed, in words.
pub fn unpack(
    store: &Path,
    theirs: Option<&Path>,
    lacking: &Tools,
) -> Result<(), String> {
    let has = |root: &Path| {
        let mut missing = lacking.missing.iter();
        missing.all(|name| below(root, name).is_some())
    };
    let tools = Wanted {
        name: "tools",
        plan: &|lists| lists.to_install(&lacking.packages),
        has: &has,
        finish: &|root| {
            fs::create_dir(root.join(RUN))?;
            let qemu = Arch::here().map_err(io::Error::other)?.qemu;
            [qemu, "depmod"].into_iter().try_for_each(|it| starter(root, it))
        },
    };
    let theirs = theirs.map(|store| store.join(tools.name));
    let root = match theirs.filter(|root| has(root)) {
        Some(root) => root,
        None if on_path("apt-get".as_ref()).is_none() => return Ok(()),
        None => unpacked(store, &tools)?,
    };
    let _ = ROOT.set(root);
    Ok(())
}

/// Writes the program that starts this one of the root directory here: with
/// the dynamic linker and the libraries that are there. It finds them beside
/// itself, because a checkout may be copied or moved.
fn starter(root: &Path, name: &str) -> io::Result<()> {
    let Some(program) = below(root, name) else { return Ok(()) };
    let Some(Elf::Program(linker)) = elf(&fs::read(&program)?) else {
        return Ok(());
    };
    let inside = |path: &Path| {
        let path = path.strip_prefix(root).unwrap_or(path);
        format!("\"$root\"/{}", path.display())
    };
    let linker = match over(root, &linker) {
        Some(linker) => inside(&linker),
        None => linker.display().to_string(),
    };
    let program = inside(&program);
    let [first, second] = library_folders(Path::new("$root"));
    let firmware = match name.starts_with("qemu") {
        true => "-L \"$root\"/usr/share/qemu -L \"$root\"/usr/share/seabios ",
        false => "",
    };
    let script = format!(
        "#!/bin/sh\n\
         root=${{0%/{RUN}/*}}\n\
         export QEMU_MODULE_DIR=\"{first}/qemu\"\n\
         exec {linker} --library-path \"{first}:{second}\" \\\n    \
         {program} {firmware}\"$@\"\n",
        first = first.display(),
        second = second.display(),
    );
    let path = root.join(RUN).join(name);
    fs::write(&path, script)?;
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755))
}

/// A program that this machine lacks.
pub fn find(name: &str) -> Option<PathBuf> {
    below(ROOT.get()?, name)
}

/// The program that starts the one of this name here.
pub fn start(name: &str) -> Option<PathBuf> {
    let path = ROOT.get()?.join(RUN).join(name);
    path.is_file().then_some(path)
}

/// The folders of programs in a root directory. /bin and /sbin are no links in
/// the packages of Debian 12.
fn below(root: &Path, name: &str) -> Option<PathBuf> {
    let dirs = ["usr/bin", "usr/sbin", "bin", "sbin"];
    let mut paths = dirs.iter().map(|dir| root.join(dir).join(name));
    paths.find(|path| path.is_file())
}

/// What lies over this file of this machine: the tools' own dynamic linker, if
/// it is newer.
pub fn here(path: &Path) -> PathBuf {
    let over = ROOT.get().and_then(|root| over(root, path));
    over.unwrap_or_else(|| path.into())
}

fn over(root: &Path, path: &Path) -> Option<PathBuf> {
    let inside = path.strip_prefix("/").ok()?;
    let mut paths = [Path::new(""), Path::new("usr")].into_iter();
    let path = paths.find(|dir| root.join(dir).join(inside).is_file())?;
    Some(root.join(path).join(inside))
}

/// The path that a file has when its package is installed.
pub fn usual(path: &Path) -> &Path {
    let inside = ROOT.get().and_then(|root| path.strip_prefix(root).ok());
    inside.unwrap_or(path)
}

/// Where the tools' libraries are, for the dynamic linker: it looks there
/// first.
pub fn library_path() -> Option<OsString> {
    env::join_paths(library_folders(ROOT.get()?)).ok()
}

fn library_folders(root: &Path) -> [PathBuf; 2] {
    let triplet = format!("{}-linux-gnu", env::consts::ARCH);
    ["usr/lib", "lib"].map(|dir| root.join(dir).join(&triplet))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::libraries::tests::cc;

    /// A program whose library is in its root directory only.
    #[test]
    fn program_of_a_root_directory_starts_with_its_libraries() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("root");
        let [_, libraries] = library_folders(&root);
        for dir in [&root.join(RUN), &root.join("sbin"), &libraries] {
            fs::create_dir_all(dir).expect("a folder");
        }
        fs::write(root.join("f.c"), "int f(void) { return 7; }").expect("it");
        let main = "int f(void); int main(int n, char **v) \
                    { return f() + n; }";
        fs::write(root.join("main.c"), main).expect("a file");
        let library = libraries.join("libf.so");
        let library = library.display();
        let named = "-shared -fPIC -Wl,-soname,libf.so";
        cc(&root, &format!("{named} -o {library} f.c"));
        cc(&root, &format!("-o sbin/depmod main.c {library}"));

        let status = |program: PathBuf| {
            let status = Command::new(program).arg("argument").status();
            status.expect("a program").code()
        };
        assert_eq!(status(root.join("sbin/depmod")), Some(127));
        starter(&root, "depmod").expect("written");
        assert_eq!(status(root.join("run/depmod")), Some(9));
        let moved = dir.path().join("mo ved");
        fs::rename(&root, &moved).expect("moved");
        assert_eq!(status(moved.join("run/depmod")), Some(9));
        starter(&moved, "nothing").expect("nothing to do");
        assert!(!moved.join("run/nothing").exists());
    }

    #[test]
    fn newer_linker_of_a_root_directory_is_used() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        let linker = Path::new("/lib64/ld.so");
        assert_eq!(over(root, linker), None);
        for path in ["usr/lib64", "lib64"] {
            fs::create_dir_all(root.join(path)).expect("a folder");
            let file = root.join(path).join("ld.so");
            fs::write(&file, "").expect("a file");
            assert_eq!(over(root, linker), Some(file));
        }
    }
}
