//! The libraries that a program needs: its own dynamic linker is asked.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::overlay;

/// The files that the dynamic linker at the path `linker` loads for this
/// program or library, by the paths where it finds them, and itself. It maps
/// them, and runs none of them: ld.so(8).
///
/// # Errors
/// What is missing, in words.
pub fn libraries(linker: &Path, file: &Path) -> Result<Vec<PathBuf>, String> {
    let name = linker.file_name().unwrap_or_default().display();
    let linker = &overlay::here(linker);
    // The file chooses its linker, and a file that nobody trusts yet must not
    // choose a program of its own: it is meant to run in the machine only.
    let is_the_systems = linker.canonicalize().is_ok_and(|path| {
        path.starts_with("/nix/store")
            || path.starts_with("/gnu/store")
            || overlay::usual(linker) != linker
            || fs::metadata(path).is_ok_and(|found| found.uid() == 0)
    });
    if !linker.exists() {
        return Err(format!("no library {name}"));
    }
    if !is_the_systems {
        let linker = linker.display();
        return Err(format!("its dynamic linker {linker} is not root's"));
    }
    // The guest has none of the caller's LD_LIBRARY_PATH, LD_PRELOAD.
    let mut list = Command::new(linker);
    list.env_clear().arg("--list");
    if let Some(path) = overlay::library_path() {
        list.arg("--library-path").arg(path);
    }
    let output = list
        .arg(file)
        .output()
        .map_err(|error| format!("{}: {error}", linker.display()))?;
    if !output.status.success() {
        return Err(reason(&String::from_utf8_lossy(&output.stderr)));
    }
    let mut paths = listed(&output.stdout)?;
    paths.push(linker.clone());
    let plain = |path: PathBuf| plain(&path, Path::exists).unwrap_or(path);
    Ok(paths.into_iter().map(plain).collect())
}

/// The paths in a dynamic linker's list. Each line is `NAME => PATH (ADDRESS)`,
/// or `PATH (ADDRESS)` for what was named by its path. `linux-vdso.so.1` is the
/// kernel's, and no file.
fn listed(list: &[u8]) -> Result<Vec<PathBuf>, String> {
    let arrow = b" => ";
    let mut paths = Vec::new();
    for line in list.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        let path = match memchr::memmem::find(line, arrow) {
            Some(at) => &line[at + arrow.len()..],
            None => line,
        };
        if path == b"not found" {
            let name = &line[..line.len() - arrow.len() - path.len()];
            let name = String::from_utf8_lossy(name);
            return Err(format!("no library {name}"));
        }
        let end = memchr::memmem::rfind(path, b" (").unwrap_or(path.len());
        if path.starts_with(b"/") {
            paths.push(OsStr::from_bytes(&path[..end]).into());
        }
    }
    Ok(paths)
}

/// Why a dynamic linker gives no list.
fn reason(errors: &str) -> String {
    let last = errors.trim().lines().last().unwrap_or("no reason given");
    // glibc, and musl.
    let missing = last
        .split_once("error while loading shared libraries: ")
        .filter(|(_, why)| why.contains(": cannot open shared object file"))
        .or(last.split_once("Error loading shared library "));
    match missing.and_then(|(_, why)| why.split_once(": ")) {
        Some((name, _)) => format!("no library {name}"),
        None => last.into(),
    }
}

/// The same library without what only some processors have, if there is one:
/// the guest's processor may be another. `.../glibc-hwcaps/x86-64-v3/libc.so.6`
/// is a variant of `.../libc.so.6`.
fn plain(path: &Path, exists: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let above = path.parent()?.parent()?;
    let variant = above.file_name()? == "glibc-hwcaps";
    let plain = above.parent()?.join(path.file_name()?);
    (variant && exists(&plain)).then_some(plain)
}

/// Does the work for each of these, some at a time.
pub fn in_parallel<T: Sync, R: Send>(
    all: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let parts = all.chunks(all.len().div_ceil(threads).max(1));
    thread::scope(|scope| {
        let work = &work;
        let parts = parts.map(|part| {
            scope.spawn(move || part.iter().map(work).collect::<Vec<_>>())
        });
        let parts: Vec<_> = parts.collect();
        let done =
            parts.into_iter().flat_map(|it| it.join().expect("no panic"));
        done.collect()
    })
}

#[cfg(test)]
pub mod tests {
    use rstest::rstest;

    use super::*;
    use crate::elf::{Elf, elf};

    #[test]
    fn list_of_glibc_and_of_musl_is_read() {
        let glibc = b"\tlinux-vdso.so.1 (0x00007ffe)\n\
            \tliba.so => /opt/a b/bin/../lib/liba.so (0x00007f1)\n\
            \t/opt/named.so (0x00007f2)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f3)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f4)\n";
        let wanted = [
            "/opt/a b/bin/../lib/liba.so",
            "/opt/named.so",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        let wanted = wanted.map(PathBuf::from).to_vec();
        assert_eq!(listed(glibc), Ok(wanted));
        let musl = b"\t/lib/ld-musl-x86_64.so.1 (0x7f0)\n\
            \tlibz.so.1 => /lib/libz.so.1 (0x7f1)\n\
            \tlibc.musl-x86_64.so.1 => /lib/ld-musl-x86_64.so.1 (0x7f0)\n";
        assert_eq!(listed(musl).expect("a list").len(), 3);
        assert_eq!(listed(b"\tstatically linked\n"), Ok(vec![]));
        let missing = b"\tlibx.so => not found\n";
        assert_eq!(listed(missing), Err("no library libx.so".into()));
    }

    #[rstest]
    #[case::glibc(
        "./m: error while loading shared libraries: liba.so: cannot open \
         shared object file: No such file or directory\n",
        "no library liba.so"
    )]
    #[case::musl(
        "Error loading shared library liba.so: No such file or directory \
         (needed by ./m)\n",
        "no library liba.so"
    )]
    #[case::other(
        "./m: error while loading shared libraries: ./m: invalid ELF header\n",
        "./m: error while loading shared libraries: ./m: invalid ELF header"
    )]
    #[case::silent("", "no reason given")]
    fn missing_library_is_named(#[case] errors: &str, #[case] wanted: &str) {
        assert_eq!(reason(errors), wanted);
    }

    #[test]
    fn library_for_every_processor_is_taken() {
        let variant = Path::new("/lib/x/glibc-hwcaps/x86-64-v3/libz.so.1");
        let plain_one = Some(PathBuf::from("/lib/x/libz.so.1"));
        assert_eq!(plain(variant, |_| true), plain_one);
        assert_eq!(plain(variant, |_| false), None);
        assert_eq!(plain(Path::new("/lib/x/libz.so.1"), |_| true), None);
        assert_eq!(plain(Path::new("/lib"), |_| true), None);
    }

    pub fn cc(dir: &Path, arguments: &str) {
        let mut cc = Command::new("cc");
        let cc = cc.args(arguments.split(' ')).current_dir(dir);
        assert!(cc.status().expect("cc").success(), "{arguments}");
    }

    /// A program with a library in a folder beside it, of which there is also a
    /// variant for newer processors.
    #[test]
    fn linker_finds_a_library_where_the_program_says() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().canonicalize().expect("a path");
        let variants = dir.join("lib/glibc-hwcaps/x86-64-v2");
        fs::create_dir_all(&variants).expect("a folder");
        fs::write(dir.join("f.c"), "int f(void) { return 0; }").expect("write");
        let main = "int f(void); int main(void) { return f(); }";
        fs::write(dir.join("main.c"), main).expect("write");
        cc(&dir, "-shared -fPIC -o lib/libf.so f.c");
        cc(&dir, "-o main main.c -Llib -lf -Wl,-rpath,$ORIGIN/lib");
        let library = dir.join("lib/libf.so");
        fs::copy(&library, variants.join("libf.so")).expect("a copy");

        let main = dir.join("main");
        let Some(Elf::Program(linker)) = elf(&fs::read(&main).expect("read"))
        else {
            panic!("a program")
        };
        let found = libraries(&linker, &main).expect("a list");
        assert!(found.contains(&library), "{found:?}");
        fs::remove_dir_all(dir.join("lib")).expect("removed");
        let missing = libraries(&linker, &main);
        assert_eq!(missing, Err("no library libf.so".into()));
        let missing = libraries(Path::new("/nosuch/ld.so"), &main);
        assert_eq!(missing, Err("no library ld.so".into()));
    }

    #[test]
    fn file_cannot_choose_a_program_that_runs_here() {
        let dir = tempfile::tempdir().expect("a folder");
        let linker = dir.path().join("ld.so");
        let touch = "#!/bin/sh\ntouch \"$0.ran\"\n";
        fs::write(&linker, touch).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&linker, mode).expect("chmod");
        std::os::unix::fs::chown(&linker, Some(1000), None)
            .or_else(|error| match nix::unistd::getuid().is_root() {
                true => Err(error),
                false => Ok(()), // It is not root's anyway.
            })
            .expect("chown");
        let why = libraries(&linker, Path::new("/bin/sh"));
        let why = why.expect_err("refused");
        assert!(why.ends_with("is not root's"), "{why}");
        assert!(!dir.path().join("ld.so.ran").exists());
    }
}
