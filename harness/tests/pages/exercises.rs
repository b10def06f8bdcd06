//! The exercises fit the present source, and name claims that exist. The script
//! `harness/exercises` checks that exactly these claims fail; it takes minutes.

use std::fs;

use super::workspace;

/// The lines of a file of `harness/exercises.d` that begin with this word,
/// without it.
fn field(text: &str, word: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let lines = lines.filter(|(first, _)| *first == word);
    lines.map(|(_, rest)| rest.to_string()).collect()
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(workspace().join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What is wrong with an exercise: a line for each fault.
fn complaints(number: usize, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let page = read("EXERCISES.md");
    let section = page.split("\n## ").nth(number).unwrap_or_default();
    let one = |word: &str| match &field(text, word)[..] {
        [only] => only.clone(),
        other => panic!("{number}: {word}: {other:?}"),
    };
    let [file, old, new] = ["file", "old", "new"].map(one);
    let [run, passes] = ["run", "passes"].map(one);
    let found = read(&file).matches(&old).count();
    if found != 1 {
        wrong.push(format!("{found} times in {file}: {old}"));
    }
    for part in [
        format!("]({file})"),
        format!("```text\n{old}\n```"),
        format!("```text\n{new}\n```"),
        format!("cargo test -p harness --test claims -- {run}\n"),
        format!("cargo run -q -p harness -- {passes}\n"),
    ] {
        if !section.contains(&part) {
            wrong.push(format!("not on the page: {part}"));
        }
    }
    let fails = field(text, "fails");
    if fails.is_empty() {
        wrong.push("no claim fails".into());
    }
    for claim in &fails {
        let (module, name) = claim.split_once("::").unwrap_or((claim, ""));
        let claims = read(&format!("harness/tests/claims/{module}.rs"));
        if !claims.contains(&format!("\nfn {name}(")) {
            wrong.push(format!("there is no claim {claim}"));
        }
        if !claim.starts_with(&run) {
            wrong.push(format!("{run} does not run {claim}"));
        }
    }
    let listed = section.lines().filter_map(|line| line.strip_prefix("- `"));
    let listed: Vec<String> =
        listed.filter_map(|it| Some(it.strip_suffix('`')?.into())).collect();
    if listed != fails {
        wrong.push(format!("the page's answer is another: {listed:?}"));
    }
    wrong
}

#[test]
fn each_exercise_fits_the_source_and_names_claims() {
    let mut wrong = String::new();
    for number in 1..=6 {
        let text = read(&format!("harness/exercises.d/{number}"));
        for complaint in complaints(number, &text) {
            wrong += &format!("\n{number}: {complaint}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The control: each part of an exercise that is out of date is noticed.
#[test]
fn exercise_that_is_out_of_date_is_noticed() {
    let text = read("harness/exercises.d/1");
    assert_eq!(complaints(1, &text), [""; 0]);
    for (what, from, to, part) in [
        ("the source", "old MsFlags::", "old NoFlags::", "times in"),
        ("a claim", "fails mount::", "fails mount::no_", "no claim"),
        ("another module", "run mount::", "run uts::", "does not run"),
        ("the page", "new MsFlags", "new NoFlags", "not on the page"),
        ("the answer", "fails ", "failed ", "answer is another"),
    ] {
        let wrong = complaints(1, &text.replacen(from, to, 1));
        let seen = wrong.iter().any(|it| it.contains(part));
        assert!(seen, "{what}: {wrong:?}");
    }
}
