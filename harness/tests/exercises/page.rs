//! An exercise, as EXERCISES.md has it.

/// What a section of the page says.
#[derive(Debug, Clone)]
pub struct Exercise {
    pub title: String,
    /// The file that is changed: this text, which it has once, to that one.
    pub file: String,
    pub old: String,
    pub new: String,
    /// The filter of the claims that are run.
    pub run: String,
    /// The command that still works.
    pub passes: String,
    /// The answer: the claims that fail.
    pub fails: Vec<String>,
}

/// The exercises of the page, in its order. `None` if one lacks something.
pub fn exercises(page: &str) -> Option<Vec<Exercise>> {
    page.split("\n## ").skip(1).map(exercise).collect()
}

fn exercise(section: &str) -> Option<Exercise> {
    let between = |from: &str, to: &str| {
        let (_, rest) = section.split_once(from)?;
        Some(rest.split_once(to)?.0.to_string())
    };
    let mut texts = section.split("```text\n").skip(1);
    let mut text = || Some(texts.next()?.split_once("\n```")?.0.to_string());
    let claims = section.lines().filter_map(|it| it.strip_prefix("- `"));
    Some(Exercise {
        title: section.lines().next()?.into(),
        file: between("](", ")")?,
        old: text()?,
        new: text()?,
        run: between("cargo test -p harness --test claims -- ", "\n")?,
        passes: between("cargo run -q -p harness -- ", "\n")?,
        fails: claims.map(|it| it.trim_end_matches('`').into()).collect(),
    })
}
