//! Does exercises of EXERCISES.md, and compares what happens with the answers.
//!
//!     cargo run -p harness --example exercises -- 1
//!
//! Without a number it does all. Each is done on a copy of this checkout below
//! its target folder, and takes a minute or more.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs, io};

mod page;

use page::{Exercise, exercises};

fn main() -> io::Result<ExitCode> {
    let here = env::var_os("CARGO_MANIFEST_DIR").expect("cargo run");
    let here = Path::new(&here).join("..");
    let copy = here.join("target/exercises");
    let page = fs::read_to_string(here.join("EXERCISES.md"))?;
    let all = exercises(&page).expect("exercises on the page");
    let numbers: Vec<usize> =
        env::args_os().skip(1).map(|it| number(it.to_str(), &all)).collect();
    let some =
        if numbers.is_empty() { (1..=all.len()).collect() } else { numbers };
    seed(&here.join("target"), &copy.join("target"))?;
    let mut right = true;
    for number in some {
        refresh(&here, &copy)?;
        println!("{}", all[number - 1].title);
        right &= try_it(&copy, &all[number - 1])?;
    }
    refresh(&here, &copy)?;
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn number(word: Option<&str>, all: &[Exercise]) -> usize {
    let number = word.and_then(|word| word.parse().ok());
    number.filter(|it| (1..=all.len()).contains(it)).unwrap_or_else(|| {
        panic!("usage: exercises [NUMBER]..., from 1 to {}", all.len())
    })
}

/// Copies the dependencies that are built here: they need not be built again.
fn seed(here: &Path, copy: &Path) -> io::Result<()> {
    if copy.exists() {
        return Ok(());
    }
    fs::create_dir_all(copy.join("debug"))?;
    // By this file the harness recognizes a target folder.
    fs::copy(here.join("CACHEDIR.TAG"), copy.join("CACHEDIR.TAG"))?;
    let parts = [".fingerprint", "build", "deps"];
    let mut cp = Command::new("cp");
    cp.arg("-Rp").args(parts.map(|it| here.join("debug").join(it)));
    assert!(cp.arg(copy.join("debug")).status()?.success(), "cp");
    Ok(())
}

/// Copies the files that differ, so that Cargo builds only what has changed.
fn refresh(here: &Path, copy: &Path) -> io::Result<()> {
    fs::create_dir_all(copy)?;
    for entry in fs::read_dir(here)? {
        let (name, path) = entry.map(|it| (it.file_name(), it.path()))?;
        let to = copy.join(&name);
        if path.is_dir() {
            if name != "target" && name != ".git" {
                refresh(&path, &to)?;
            }
        } else if fs::read(&to).ok() != Some(fs::read(&path)?) {
            fs::copy(&path, &to)?;
        }
    }
    Ok(())
}

/// Does an exercise. True if what happens is what the page says.
fn try_it(copy: &Path, it: &Exercise) -> io::Result<bool> {
    let file = copy.join(&it.file);
    let changed = fs::read_to_string(&file)?.replacen(&it.old, &it.new, 1);
    fs::write(&file, changed)?;
    let mut test = cargo(copy);
    test.args(["test", "-p", "harness", "--test", "claims", "--", &it.run]);
    let output = test.stderr(Stdio::null()).output()?;
    let output = String::from_utf8_lossy(&output.stdout);
    let failed = output.lines().filter_map(|line| {
        line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
    });
    let mut failed: Vec<&str> = failed.collect();
    failed.sort();
    for claim in &failed {
        println!("   fails: {claim}");
    }
    let ran = output.contains("\ntest result: ");
    let fails = ran && failed == it.fails;
    if !ran {
        println!("   the claims did not run");
    } else if fails {
        println!("   as the page says");
    } else {
        println!("   but the page says: {}", it.fails.join(", "));
    }
    let mut run = cargo(copy);
    run.args(["run", "-q", "-p", "harness", "--"]);
    let run = run.args(it.passes.split(' ')).stdout(Stdio::null());
    let passes = run.status()?.success();
    let how = if passes { "passes" } else { "fails, which it should not" };
    println!("   {how}: {}", it.passes);
    Ok(fails && passes)
}

fn cargo(copy: &Path) -> Command {
    let mut cargo =
        Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(copy).env_remove("CARGO_TARGET_DIR");
    cargo
}
