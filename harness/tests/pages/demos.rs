//! Each list of the demos, in any file, names all of them. Whoever adds one to
//! `DEMOS` is told here where else to add it.

use std::fs;

use harness::DEMOS;

use super::{files, workspace};

/// Blocks that name many demos and are no list of them: how the file's path
/// begins, words of the block, and why.
const NO_LIST: &[(&str, &str, &str)] = &[
    ("CHANGELOG.md", "- Six demos", "an old version has what it had"),
    ("README", "CLONE_NEWNET", "the book has these six"),
    (
        "harness/tests/claims/advice.rs",
        "inject=",
        "a row is an error, whichever demo meets it",
    ),
    (
        "harness/tests/guest/runtimes/",
        "CLONE_NEWUTS",
        "containers of others have the namespaces that they have",
    ),
];

/// How the demos are named: themselves, their flags, their claims, and the files
/// of their claims.
fn forms(demos: &[&str]) -> [Vec<String>; 4] {
    let kinds = demos.iter().map(|demo| demo.trim_end_matches("-demo"));
    let flags = kinds.clone().map(|kind| match kind {
        "mount" => "CLONE_NEWNS".into(),
        kind => format!("CLONE_NEW{}", kind.to_uppercase()),
    });
    [
        demos.iter().map(|demo| demo.to_string()).collect(),
        flags.collect(),
        kinds.clone().map(|kind| format!("{kind}::")).collect(),
        kinds.map(|kind| format!("mod {kind};")).collect(),
    ]
}

/// Whether the text has this name, and not only as a part of a longer one.
fn names(text: &str, name: &str) -> bool {
    let is_part = |it: char| it.is_ascii_alphanumeric() || "-_".contains(it);
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let goes_on = name.ends_with(is_part) && after.starts_with(is_part);
        !before.ends_with(is_part) && !goes_on
    })
}

/// What the list in this text does not name. `None` if there is no list: who
/// names all demos but one means all.
fn missing(text: &str, forms: &[Vec<String>; 4]) -> Option<Vec<String>> {
    let lists = forms.iter().filter_map(|form| {
        let missing = form.iter().filter(|name| !names(text, name)).cloned();
        let missing: Vec<_> = missing.collect();
        (missing.len() <= 1).then_some(missing)
    });
    lists.reduce(|all, missing| [all, missing].concat())
}

/// What the lists of a file do not name: `path:line: no time-demo`. A list is a
/// line, as a chain is, which may end in the next one; or all other lines
/// between two empty ones.
fn complaints(path: &str, text: &str, demos: &[&str]) -> Vec<String> {
    let forms = forms(demos);
    let named = |it: &str| forms.iter().flatten().any(|name| names(it, name));
    let lines: Vec<(usize, &str)> = (1..).zip(text.lines()).collect();
    let mut lists = Vec::new();
    for block in lines.split(|(_, line)| line.trim().is_empty()) {
        let is_no_list = NO_LIST.iter().any(|(file, words, _)| {
            let has = |(_, line): &(_, &str)| line.contains(words);
            path.starts_with(file) && block.iter().any(has)
        });
        if is_no_list {
            continue;
        }
        let nexts = block.iter().skip(1).map(|it| it.1).chain([""]);
        let (alone, rest): (Vec<_>, Vec<_>) = block
            .iter()
            .zip(nexts)
            .filter(|((_, line), _)| named(line))
            .partition(|((_, line), _)| missing(line, &forms).is_some());
        for ((at, line), next) in alone {
            lists.push((*at, format!("{line}\n{next}")));
        }
        if let Some(((at, _), _)) = rest.first() {
            let lines: Vec<&str> = rest.iter().map(|it| it.0.1).collect();
            lists.push((*at, lines.join("\n")));
        }
    }
    lists.sort();
    let complaints = lists.iter().filter_map(|(at, list)| {
        let missing = missing(list, &forms).filter(|it| !it.is_empty())?;
        Some(format!("{path}:{at}: no {}", missing.join(", ")))
    });
    complaints.collect()
}

#[test]
fn each_list_of_the_demos_names_all_of_them() {
    let texts = files().into_iter().filter_map(|path| {
        let text = fs::read_to_string(workspace().join(&path)).ok()?;
        Some((path.display().to_string(), text))
    });
    let files: Vec<(String, String)> = texts.collect();
    let complaints: Vec<String> = files
        .iter()
        .flat_map(|(path, text)| complaints(path, text, &DEMOS))
        .collect();
    assert!(
        complaints.is_empty(),
        "add what is missing; or is it no list? Then NO_LIST says why:\n{}",
        complaints.join("\n")
    );
    for (path, words, why) in NO_LIST {
        let found = files
            .iter()
            .any(|(file, text)| file.starts_with(path) && text.contains(words));
        assert!(found, "{path} has no {words:?} ({why})");
    }
}

/// The control: what is missing is named, and where. The names are others, so
/// that this list is none.
#[test]
fn list_without_one_of_the_demos_is_noticed() {
    let demos =
        ["a", "b", "c", "d", "mount", "f"].map(|it| format!("{it}-demo"));
    let six = demos.each_ref().map(String::as_str);
    let chain = six.join(" ");
    let table = six.map(|demo| format!("| {demo} | ... |\n")).concat();
    let flags = ["A", "B", "C", "D", "NS", "F"];
    let flags = flags.map(|it| format!("CLONE_NEW{it} |\n")).concat();
    let claims = "a::x\nb::x\nc::x\nd::x\nmount::x\nf::x\n";
    let files = "mod a;\nmod b;\nmod c;\nmod d;\nmod mount;\nmod f;\n";
    let text = format!(
        "# All\n\n{chain} sh\n{table}\n{flags}\n{claims}\n{files}\n\
         Four: a-demo, b-demo, c-demo, d-demo.\n"
    );
    let seen = |text: &str, demos: &[&str]| complaints("it.md", text, demos);
    assert_eq!(seen(&text, &six), [""; 0]);
    for (from, to, complaint) in [
        (" mount-demo ", " mount ", "it.md:3: no mount-demo"),
        (" f-demo ", " my-f-demo ", "it.md:3: no f-demo"),
        ("| b-demo ", "| b-demos ", "it.md:4: no b-demo"),
        ("NEWNS ", "NEWNSS ", "it.md:11: no CLONE_NEWNS"),
        ("d::", "dd::", "it.md:18: no d::"),
        ("mod a;", "", "it.md:26: no mod a;"),
    ] {
        assert!(text.contains(from), "{from}");
        assert_eq!(seen(&text.replacen(from, to, 1), &six), [complaint]);
    }
    let seven = [&six[..], &["g-demo"]].concat();
    let missing = [
        (3, "g-demo"),
        (4, "g-demo"),
        (11, "CLONE_NEWG"),
        (18, "g::"),
        (25, "mod g;"),
    ];
    let missing = missing.map(|(line, it)| format!("it.md:{line}: no {it}"));
    assert_eq!(seen(&text, &seven), missing);
    let ends = text.replacen(" f-demo sh", "\nf-demo sh", 1);
    assert_eq!(seen(&ends, &six), [""; 0]);
    // Of an exception nothing is asked.
    let (file, words, _) = NO_LIST[0];
    let exception = format!("{words}\n{table}").replace("f-demo", "");
    assert_eq!(complaints("a.md", &exception, &six), ["a.md:2: no f-demo"]);
    assert_eq!(complaints(file, &exception, &six), [""; 0]);
}
