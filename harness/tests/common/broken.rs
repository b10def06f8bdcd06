//! What is said first of a test that fails, in one line: which fact, which rule
//! was broken, what was expected and what came.

use std::panic::Location;
use std::sync::Once;
use std::{fs, panic, thread};

use regex::Regex;

use super::package;

/// The start of a panic's message if the machine failed, and not the claim.
pub const NO_VERDICT: &str = "the VM failed: ";

/// How much is shown of a rule or a value, and of the whole message: a line
/// that can be read.
const VALUE: usize = 160;
const MESSAGE: usize = 400;

/// From now on a failure first prints one line, before the backtrace.
pub fn name_broken_claims() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let message = payload.downcast_ref::<String>().map(String::as_str);
            let message = message.or(payload.downcast_ref::<&str>().copied());
            let message = message.unwrap_or_default();
            // libtest names each thread after its test.
            let thread = thread::current();
            let name = thread.name().unwrap_or("a thread of a claim");
            let at = info.location().expect("there is always one");
            let rule = rule_at(at).unwrap_or_default();
            let facts = facts_of(name).unwrap_or_default();
            let place = format!("{name}{facts} ({at})");
            eprintln!("{}", one_line(&place, &rule, message));
            next(info);
        }));
    });
}

fn one_line(place: &str, rule: &str, message: &str) -> String {
    let (what, message) = match message.strip_prefix(NO_VERDICT) {
        Some(why) => ("no verdict, the machine failed", why),
        None => ("broken", message),
    };
    // What `assert!` without words says of itself is the rule.
    let message = difference(message.trim_start_matches("assertion failed: "));
    let message = message.replace("assertion `left == right` failed", "");
    let message = message.replace("assertion `left != right` failed", "");
    let lines = message.lines().map(|it| it.trim_matches([' ', ':']));
    let lines = lines.filter(|it| !it.is_empty() && *it != rule);
    let how = lines.collect::<Vec<_>>().join(" | ");
    let rule = match rule {
        "" => String::new(),
        rule => format!("not so: {}: ", cut(rule, VALUE)),
    };
    format!("{what}: {place}: {rule}{}", cut(&how, MESSAGE))
}

/// The first characters of a text.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.into(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// The message of a comparison without what is the same: both values of an
/// `assert_eq!` begin with the line, or the element of a list, that differs.
fn difference(message: &str) -> String {
    // assert_cmd's: what was expected, the lines that differ, what came.
    if let Some((head, rest)) = message.split_once("\n├── original: ")
        && let Some((_, rest)) = rest.split_once("\n├── diff: ")
        && let Some((diff, _)) = rest.split_once("\n└── var as str: ")
    {
        let lines = diff.lines().filter_map(|it| it.strip_prefix("│   "));
        let lines = lines.filter(|it| {
            let is_head = it.starts_with("---") || it.starts_with("+++");
            it.starts_with(['-', '+']) && !is_head
        });
        return format!("{head}\n{}", lines.collect::<Vec<_>>().join("\n"));
    }
    let halves = message.split_once("\n  left: ");
    let Some((head, (left, right))) = halves.and_then(|(head, values)| {
        Some((head, values.split_once("\n right: ")?))
    }) else {
        return message.into();
    };
    let pairs = left.chars().zip(right.chars());
    let same = pairs.take_while(|(left, right)| left == right);
    let same: usize = same.map(|(letter, _)| letter.len_utf8()).sum();
    let start = match &left[..same] {
        short if short.chars().count() < VALUE / 2 => 0,
        same => ["\\n", ", "]
            .iter()
            .filter_map(|end| Some(same.rfind(end)? + end.len()))
            .max()
            .unwrap_or(0),
    };
    let dots = if start > 0 { "..." } else { "" };
    let [left, right] = [left, right].map(|it| cut(&it[start..], VALUE));
    format!("{head}\n  left: {dots}{left}\n right: {dots}{right}")
}

/// The rule that an assertion at this place of the source asserts.
fn rule_at(at: &Location) -> Option<String> {
    let path = package().parent()?.join(at.file());
    rule(&fs::read_to_string(path).ok()?, at.line(), at.column())
}

fn rule(source: &str, line: u32, column: u32) -> Option<String> {
    let mut lines = source.lines().skip(line as usize - 1);
    let first = lines.next()?.get(column as usize - 1..)?;
    let words = first.split(' ').chain(lines.flat_map(str::split_whitespace));
    let text = words.collect::<Vec<_>>().join(" ");
    let (name, rest) = text.split_once('(')?;
    let mut operands = operands(rest).into_iter();
    let first = operands.next()?;
    match name {
        "assert!" => Some(first),
        "assert_eq!" => Some(format!("{first} == {}", operands.next()?)),
        "assert_ne!" => Some(format!("{first} != {}", operands.next()?)),
        _ => None,
    }
}

/// The operands of a macro, up to the parenthesis that closes it.
fn operands(text: &str) -> Vec<String> {
    // A string, a letter, or anything else, piece by piece.
    let pieces = Regex::new(r#""(?:\\.|[^"\\])*"|'\\?.'|."#);
    let mut depth = 0;
    let mut operands = vec![String::new()];
    for piece in pieces.expect("an expression").find_iter(text) {
        match piece.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => break,
            ")" | "]" | "}" => depth -= 1,
            "," if depth == 0 => {
                operands.push(String::new());
                continue;
            }
            _ => {}
        }
        *operands.last_mut().expect("one") += piece.as_str();
    }
    operands.iter().map(|it| it.trim().to_string()).collect()
}

/// The facts that this test proves, as FACTS.md says: ` [U1, U2]`.
fn facts_of(test: &str) -> Option<String> {
    let mut names = test.split("::");
    let claim = format!("`{}::{}`", names.next()?, names.next()?);
    let page = fs::read_to_string(package().join("FACTS.md")).ok()?;
    let rows = page.lines().filter(|row| row.contains(&claim));
    let ids: Vec<&str> = rows.filter_map(|it| it.split(' ').nth(1)).collect();
    (!ids.is_empty()).then(|| format!(" [{}]", ids.join(", ")))
}

#[test]
fn failure_is_reported_in_one_line() {
    let how =
        "assertion `left == right` failed: reader\n  left: 1\n right: 2\n";
    assert_eq!(
        one_line("uts::names (uts.rs:7:5)", "rows == 2", how),
        "broken: uts::names (uts.rs:7:5): not so: rows == 2: reader | \
         left: 1 | right: 2"
    );
    assert_eq!(
        one_line("uts::names", "a.is_ok()", "assertion failed: a.is_ok()"),
        "broken: uts::names: not so: a.is_ok(): "
    );
    assert_eq!(
        one_line("uts::names", "", "the VM failed: it has ended\n  | oops"),
        "no verdict, the machine failed: uts::names: it has ended | | oops"
    );
    let long = one_line("uts::names", "", &"x".repeat(1000));
    assert!(long.ends_with("xxx...") && long.len() < 450, "{long}");
}

#[test]
fn failure_shows_what_differs_and_not_what_precedes_it() {
    let table = |end: &str| format!("{:?}", "a row\n".repeat(100) + end);
    let [left, right] = [table("bird 1\nx"), table("bird 2\nx")];
    let head = "assertion `left == right` failed: reader";
    let message = format!("{head}\n  left: {left}\n right: {right}");
    assert_eq!(
        one_line("uts::names", "seen == told", &message),
        "broken: uts::names: not so: seen == told: reader | \
         left: ...bird 1\\nx\" | right: ...bird 2\\nx\""
    );
}

#[test]
fn failure_of_assert_cmd_shows_what_differs() {
    use assert_cmd::assert::OutputAssertExt;
    let printed = |text: &str| {
        let mut printf = std::process::Command::new("printf");
        printf.args(["%s", text]).assert()
    };
    let rows = "a row\n".repeat(100);
    printed(&rows).stdout(rows.clone());
    let message = printed(&(rows.clone() + "bird 1\n"))
        .try_stdout(rows + "bird 2\n")
        .expect_err("they differ")
        .to_string();
    assert!(!message.contains('\x1b'), "{message:?}");
    let line = "broken: uts::names: Unexpected stdout, failed diff original \
                var | -bird 2 | +bird 1";
    assert_eq!(one_line("uts::names", "", &message), line);
}

#[test]
fn rule_of_an_assertion_is_read_from_the_source() {
    let source = "fn a() {\n    assert!(\n        rows.iter().all(|it| \
                  it.len() < 80),\n        \"{text}\"\n    );\n    \
                  assert_eq!(f(a, \"(,\"), [1, 2], \"{text}\");\n    \
                  machine.sh(Root, \"true\");\n}\n";
    let rule = |line| rule(source, line, 5);
    let first = Some("rows.iter().all(|it| it.len() < 80)".to_string());
    assert_eq!(rule(2), first);
    assert_eq!(rule(6), Some("f(a, \"(,\") == [1, 2]".to_string()));
    assert_eq!(rule(7), None);
}

#[test]
fn fact_of_a_claim_is_named() {
    let claim = "chain::each_demo_changes_exactly_one_namespace";
    assert_eq!(facts_of(claim), Some(" [G1]".to_string()));
    assert_eq!(facts_of("chain::none"), None);
}
