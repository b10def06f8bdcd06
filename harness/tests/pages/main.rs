//! The commands of every page are typed at a terminal, and the page is compared
//! with what that shows.
//!
//! A page is a README, the tour or the course. Each page has a fresh machine.
//! Each of its `console` blocks is a session at a terminal there: `reader`'s if
//! it begins with `$ `, root's if it begins with `# `. The text behind a prompt
//! is typed, and everything else is what the terminal must show.
//! `HARNESS_BLESS=1` writes into the pages what it shows now.

#[path = "../common/mod.rs"]
mod common;
mod demos;
mod exercises;
mod pictures;
mod same;
mod terminal;
mod text;
mod translation;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs, thread};

use text::{Block, Kind, Page};

/// Blocks that are not run: page and first line, and then the reason.
const NOT_RUN: &str = r#"
README.md: cargo run -p pid-demo
    The two commands; the second is what runs this very test.
README.md: docker run -it --name nsd -v "$PWD":/src -v nsd:/src/target -w /src rust:1 bash
    No Docker is here; harness/machines/matrix has a container.
README.md: export RUSTUP_DIST_SERVER=https://mirrors.ustc.edu.cn/rust-static
    A server of others.
README.md: cargo vendor --locked /srv/crates
    It takes a network.
harness/CHECK.md: for program in students/*/mydocker; do
    The claim check::teachers_loop_counts_what_is_isolated runs it.
harness/COURSE.md: harness/setup && cargo run -p harness -- true
    It installs packages.
harness/COURSE.md: target/debug/harness check reader ./mydocker run
    A program of the student's.
harness/COURSE.md: rows='UTS: a hostname of its own|PID: COMMAND, or an init above it, is PID 1'
    A room full of students.
harness/README.md: cargo run -p harness
    A shell that waits for its reader.
"#;

/// The folder of the workspace.
fn workspace() -> &'static Path {
    common::package().parent().expect("a workspace")
}

/// All pages that are typed, by their paths from the workspace. A translation
/// is not among them: it has the sessions of its page. The findings are run
/// without this project.
fn pages() -> Vec<PathBuf> {
    let names = ["README.md", "TOUR.md", "COURSE.md", "CHECK.md"];
    let mut pages = translation::all_pages();
    pages.retain(|page| {
        names.iter().any(|name| page.ends_with(name))
            && !page.starts_with("findings")
    });
    pages
}

/// The files of the checkout, by their paths from the workspace.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![workspace().to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a folder").flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            let kind = kind.expect("its type");
            let name = entry.file_name();
            if kind.is_dir() && name != "target" && name != ".git" {
                dirs.push(path);
            } else if kind.is_file() {
                let path = path.strip_prefix(workspace()).expect("below");
                files.push(path.to_path_buf());
            }
        }
    }
    files.sort();
    files
}

/// The demos' examples: the files of their programs.
fn examples() -> Vec<PathBuf> {
    let mut files = files();
    files.retain(|it| it.iter().nth(1) == Some("examples".as_ref()));
    files
}

/// The text of a file of the workspace.
fn text_of(path: impl AsRef<Path>) -> String {
    let text = fs::read_to_string(workspace().join(&path));
    text.unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

fn read(path: &Path) -> Page {
    let page = Page::parse(&text_of(path));
    page.unwrap_or_else(|why| panic!("{}:{why}", path.display()))
}

/// A reader who types what a page shows gets what the page shows.
#[test]
fn pages_show_what_a_terminal_shows() {
    let bless = env::var_os("HARNESS_BLESS").is_some_and(|it| !it.is_empty());
    let mut left = pages();
    // The longest page is the last, which is taken first.
    left.sort_by_key(|path| read(path).sessions().count());
    let left = Mutex::new(left);
    let wrong = Mutex::new(String::new());
    let work = || {
        loop {
            let Some(path) = left.lock().expect("pages").pop() else { return };
            let page = read(&path);
            let (seen, complaint) = typed(&path, &page);
            if bless && seen.len() == page.sessions().count() {
                let text = page.with(&seen);
                fs::write(workspace().join(&path), &text).expect("a page");
                if let Some(path) = translation::chinese(&path) {
                    let text = translation::with_blocks(&text, &text_of(&path));
                    fs::write(workspace().join(path), text).expect("a page");
                }
            } else {
                wrong.lock().expect("text").push_str(&complaint);
            }
        }
    };
    // One worker for each processor.
    let workers = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().expect("text");
    assert!(
        wrong.is_empty(),
        "{wrong}\n`HARNESS_BLESS=1 cargo test -p harness --test pages` writes \
         into the pages what is shown now: look at `git diff` then"
    );
}

/// Types a page's sessions. Returns them as the terminal showed them, and a
/// description of what differs. A session that fails is the last one.
fn typed(path: &Path, page: &Page) -> (Vec<Block>, String) {
    let mut machine = None;
    let mut complaint = String::new();
    let mut seen = Vec::new();
    for block in page.sessions() {
        let real = match block.is_for_this_machine() {
            true => terminal::here(block),
            false => terminal::session(&mut machine, block),
        };
        let at = format!("\n{}:{}", path.display(), block.line);
        let real = match real {
            Ok(real) => real,
            Err(why) => {
                complaint += &format!("{at}: the session:\n{why}\n");
                break;
            }
        };
        let difference = same::difference(block, &real);
        let older = machine.as_ref().filter(|machine| {
            block.since.is_some_and(|since| machine.release < since)
        });
        match (&difference, older) {
            (Some(difference), None) => {
                complaint += &format!("{at}: {difference}");
            }
            // Debian's does not: other vendors backport.
            (None, Some(machine)) if machine.debians => {
                complaint += &format!("{at}: an older kernel shows it, too\n");
            }
            _ => {}
        }
        // A session that is the same keeps its PIDs on the page, and one that
        // is not for this kernel is kept.
        let keep = difference.is_none() || older.is_some();
        seen.push(if keep { block.clone() } else { real });
    }
    (seen, complaint)
}

/// Each block that is not run is in the list, with a reason. A page without a
/// session could not fail, and so would prove nothing.
#[test]
fn blocks_that_are_not_run_are_listed() {
    let pages = pages();
    assert!(pages.len() >= 8, "{pages:?}");
    let mut found = Vec::new();
    for path in pages {
        let (page, path) = (read(&path), path.display().to_string());
        assert!(page.sessions().count() > 0, "{path}: no console block");
        let not_run = page.blocks.iter().filter(|it| it.kind == Kind::Shell);
        found.extend(not_run.map(|it| format!("{path}: {}", it.first())));
    }
    let listed = NOT_RUN.trim().lines().filter(|it| !it.starts_with(' '));
    assert_eq!(found, listed.collect::<Vec<_>>());
}

/// The page of `check` has a heading for each row of it, in their order.
#[test]
fn every_row_of_check_has_its_heading() {
    for page in ["harness/CHECK.md", "harness/CHECK.zh-CN.md"] {
        let text = text_of(page);
        let headings = text.lines().filter_map(|it| it.strip_prefix("### "));
        let headings: Vec<&str> = headings.collect();
        assert_eq!(headings, harness::guest::check::rows(), "{page}");
    }
}

/// The page that the two controls are about.
const RIGHT: &str = "\
```console
$ hostname
outside
$ echo $$
77
$ cargo run -q -p user-demo -- sh
# id -u
0
# echo $$
78
# exit
$ echo $$
77
```
";

/// The control: the page is typed once, and each variant of it that is wrong in
/// one place differs from that.
#[test]
fn page_that_is_wrong_in_one_place_is_noticed() {
    let page = Page::parse(RIGHT).expect("a page");
    let (real, complaint) = typed(Path::new("README.md"), &page);
    assert_eq!(complaint, "");
    for (what, right, wrong) in [
        ("a line", "outside\n", "inside\n"),
        ("a number", "\n0\n", "\n1000\n"),
        ("a missing line", "\n0\n", "\n"),
        ("an extra line", "outside\n", "outside\noutside\n"),
        ("a prompt", "# id", "$ id"),
        ("two processes are one", "78", "77"),
        ("one process is two", "$\n77\n```", "$\n79\n```"),
    ] {
        assert!(RIGHT.contains(right), "{what}");
        let text = RIGHT.replacen(right, wrong, 1);
        let page = Page::parse(&text).expect("a page");
        let difference = same::difference(&page.blocks[0], &real[0]);
        assert!(difference.is_some(), "{what}");
    }
}

/// The control: a session that ends before the page's last line is an error.
#[test]
fn session_that_ends_too_early_is_noticed() {
    let text = RIGHT.replacen("# exit\n", "# exit\n$ exit\n", 1);
    let page = Page::parse(&text).expect("a page");
    let (seen, complaint) = typed(Path::new("README.md"), &page);
    assert!(seen.is_empty());
    assert!(complaint.contains("ended before"), "{complaint}");
}

/// A session that is true since a version is typed on every kernel. On an older
/// one of Debian it must differ.
#[test]
fn session_since_a_version_is_one_that_older_kernels_do_not_show() {
    let typed = |text: &str| {
        let page = Page::parse(text).expect("a page");
        let (seen, complaint) = typed(Path::new("README.md"), &page);
        (page.with(&seen), complaint)
    };
    let since = |version: &str, shown: &str| {
        format!("```console since {version}\n$ echo 1\n{shown}\n```\n")
    };
    let (blessed, complaint) = typed(&since("5.0", "2"));
    assert_eq!(blessed, since("5.0", "1"));
    assert!(complaint.contains("-2"), "{complaint}");
    let older = since("999.0", "2");
    assert_eq!(typed(&older), (older.clone(), String::new()));
    let (version, _) = typed("```console\n$ uname -v\n```\n");
    let (blessed, complaint) = typed(&since("999.0", "1"));
    assert_eq!(blessed, since("999.0", "1"));
    let complains = complaint.contains("an older kernel shows it");
    assert_eq!(complains, version.contains(" Debian "), "{complaint}");
}

/// Whether there is this claim, `module::name`; `None` if it is no claim's name.
fn is_claim(word: &str) -> Option<bool> {
    let (module, name) = word.split_once("::").filter(|it| !it.1.is_empty())?;
    let file = workspace().join(format!("harness/tests/claims/{module}.rs"));
    let claims = fs::read_to_string(file).ok()?;
    Some(claims.contains(&format!("\nfn {name}(")))
}

/// Each claim that a page names as `module::name` exists.
#[test]
fn every_claim_that_a_page_names_exists() {
    let mut named = 0;
    let is_part = |it: char| it.is_ascii_alphanumeric() || "_:".contains(it);
    for path in translation::all_pages() {
        for word in text_of(&path).split(|it| !is_part(it)) {
            let there = is_claim(word);
            assert_ne!(there, Some(false), "{}: no {word}", path.display());
            named += usize::from(there.is_some());
        }
    }
    assert!(named > 0, "no page names a claim");
}

/// Each example is named on its page and on the front page, says what is to be
/// learned, and is short.
#[test]
fn every_example_is_named_on_its_page() {
    let examples = examples();
    assert!(!examples.is_empty(), "there is no example");
    for file in examples {
        let demo = file.ancestors().nth(2).expect("a demo");
        let name = file.file_stem().expect("a name").to_string_lossy();
        for page in [&demo.join("README.md"), Path::new("README.md")] {
            let is_named = text_of(page).contains(&format!("`{name}`"));
            assert!(is_named, "{name}: not on {}", page.display());
        }
        let program = text_of(&file);
        assert!(program.contains("learned("), "{name}: no lesson");
        assert!(program.lines().count() <= 80, "{name}: too long");
    }
}
