//! A page as text: its sections and blocks, and what is typed and shown in them.

use regex::Regex;

/// A heading, and everything below it up to the next one.
#[derive(Debug, Default)]
pub struct Section {
    /// The heading's line, without the `#`s.
    pub name: String,
    /// The number of `#`s.
    pub level: usize,
    /// All of it, with the heading.
    pub text: String,
    /// Its comments, each of one line.
    pub comments: Vec<String>,
    /// Its other lines without the heading, and "```" for each block, whose
    /// place in the prose counts, too.
    pub prose: Vec<String>,
    /// Its blocks, each from fence to fence.
    pub blocks: Vec<String>,
}

/// The sections of a page. What is above its first heading is one, too.
pub fn sections(text: &str) -> Vec<Section> {
    let is_fence = |line: &str| line.trim_start().starts_with("```");
    let mut sections = vec![Section::default()];
    let mut lines = text.split_inclusive('\n');
    while let Some(line) = lines.next() {
        let level = line.bytes().take_while(|it| *it == b'#').count();
        let heading = line[level..].strip_prefix(' ').filter(|_| level > 0);
        if let Some(name) = heading {
            let name = name.trim().into();
            sections.push(Section { name, level, ..Section::default() });
        }
        let section = sections.last_mut().expect("one");
        section.text += line;
        if is_fence(line) {
            let mut block = line.to_string();
            for line in lines.by_ref() {
                block += line;
                section.text += line;
                if is_fence(line) {
                    break;
                }
            }
            section.prose.push("```".into());
            section.blocks.push(block);
        } else if line.starts_with("<!-- ") {
            section.comments.push(line.trim().into());
        } else if heading.is_none() {
            section.prose.push(line.trim_end().into());
        }
    }
    sections.retain(|it| !it.text.is_empty());
    sections
}

/// The text with something else in place of each of these parts, in their order.
pub fn with_others<'a>(
    text: &str,
    parts: impl IntoIterator<Item = (&'a str, String)>,
) -> String {
    let (mut done, mut rest) = (String::new(), text);
    for (old, new) in parts {
        let (before, after) = rest.split_once(old).expect("a part of it");
        done += before;
        done += &new;
        rest = after;
    }
    done + rest
}

/// A page, and its blocks.
#[derive(Debug)]
pub struct Page {
    text: String,
    /// In the order of the page.
    pub blocks: Vec<Block>,
}

/// The kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A session, which is run and compared. It begins and ends with its block.
    Console,
    /// `console stays`: the block opens a terminal that stays open: the other
    /// pane, in which a program runs while the next blocks are typed.
    Stays,
    /// `console again`: the block types more lines in the other pane.
    Again,
    /// Commands that cannot be run by a test.
    Shell,
    /// A drawing.
    Text,
}

/// A fenced block.
#[derive(Debug, Clone)]
pub struct Block {
    pub kind: Kind,
    /// The number of the opening fence's line, counted from 1.
    pub line: usize,
    /// All of it, from fence to fence.
    text: String,
    /// `console since 6.18`: older kernels do not show what the block does.
    pub since: Option<Release>,
    /// Empty if the block is no session.
    pub turns: Vec<Turn>,
}

/// The first two numbers of a kernel's version.
pub type Release = (u32, u32);

/// The release at the start of a version.
pub fn release(version: &str) -> Option<Release> {
    let mut numbers = version.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A prompt, what is typed there, and what is shown until the next prompt.
#[derive(Debug, Clone)]
pub struct Turn {
    /// `$` or `#`.
    pub prompt: char,
    pub typed: String,
    pub output: Vec<String>,
}

impl Page {
    /// # Errors
    /// The number of the line that is wrong, and what is wrong there.
    pub fn parse(text: &str) -> Result<Page, String> {
        let mut blocks = Vec::new();
        let mut end = 0;
        for block in sections(text).into_iter().flat_map(|it| it.blocks) {
            let start = end + text[end..].find(&block).expect("a part of it");
            end = start + block.len();
            let line = text[..start].lines().count() + 1;
            let block = Block::parse(block, line);
            blocks.push(block.map_err(|why| format!("{line}: {why}"))?);
        }
        Ok(Page { text: text.into(), blocks })
    }

    /// The blocks that are run.
    pub fn sessions(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|it| !it.turns.is_empty())
    }

    /// The page's text with these sessions in place of its own.
    pub fn with(&self, sessions: &[Block]) -> String {
        let shown = sessions.iter().map(Block::shown);
        let olds = self.sessions().map(|it| it.text.as_str());
        with_others(&self.text, olds.zip(shown))
    }
}

impl Block {
    fn parse(text: String, line: usize) -> Result<Block, &'static str> {
        let (fence, rest) = text.split_once('\n').unwrap_or_default();
        let since = fence.strip_prefix("```console since ").and_then(release);
        let kind = match fence {
            _ if since.is_some() => Kind::Console,
            "```console" => Kind::Console,
            "```console stays" => Kind::Stays,
            "```console again" => Kind::Again,
            "```sh" => Kind::Shell,
            "```text" => Kind::Text,
            _ => return Err("console, sh or text?"),
        };
        let inner = rest.strip_suffix("```\n").ok_or("a block without end")?;
        let inner: Vec<&str> = inner.lines().collect();
        let prompts = inner.iter().any(|line| Turn::begin(line).is_some());
        let turns = match kind {
            Kind::Shell | Kind::Text if prompts => {
                return Err("a session must be a console block");
            }
            Kind::Shell | Kind::Text => Vec::new(),
            _ => turns(&inner).ok_or("it begins without a prompt")?,
        };
        Ok(Block { kind, line, text, since, turns })
    }

    /// Its text, with the turns as they are now.
    pub fn shown(&self) -> String {
        let fence = self.text.lines().next().unwrap_or_default();
        let lines = self.turns.iter().flat_map(Turn::lines);
        let lines: String = lines.map(|it| it + "\n").collect();
        format!("{fence}\n{lines}```\n")
    }

    /// The first line between the fences.
    pub fn first(&self) -> &str {
        self.text.lines().nth(1).unwrap_or_default()
    }

    /// Whether each typed line starts the harness.
    pub fn is_for_this_machine(&self) -> bool {
        self.turns.iter().all(|turn| turn.typed.starts_with(HARNESS))
    }
}

impl Turn {
    /// The turn that a line begins, if the line begins with a prompt.
    fn begin(line: &str) -> Option<Turn> {
        let mut chars = line.chars();
        let prompt = chars.next().filter(|it| ['$', '#'].contains(it))?;
        let typed = chars.as_str().strip_prefix(' ')?.to_string();
        Some(Turn { prompt, typed, output: Vec::new() })
    }

    /// The turn's lines as a page has them.
    pub fn lines(&self) -> Vec<String> {
        let first = format!("{} {}", self.prompt, self.typed);
        std::iter::once(first).chain(self.output.iter().cloned()).collect()
    }

    /// The line that is typed. The guest has no Cargo, but the programs that
    /// Cargo would build are on PATH.
    pub fn translated(&self) -> String {
        let cargo = r"cargo run -q -p (?:\S+ --example )?(\S+)(?: --)?";
        let cargo = Regex::new(cargo).expect("an expression");
        cargo.replace_all(&self.typed, "$1").into()
    }
}

/// How a line begins that is typed on this machine, and not in the guest.
const HARNESS: &str = "cargo run -q -p harness -- ";

fn turns(lines: &[&str]) -> Option<Vec<Turn>> {
    let mut turns: Vec<Turn> = Vec::new();
    for line in lines {
        // There is one prompt on this machine: `# ` begins a comment of TAP.
        let here =
            turns.first().is_some_and(|it| it.typed.starts_with(HARNESS));
        let turn = Turn::begin(line).filter(|it| !here || it.prompt == '$');
        match turn {
            Some(turn) => turns.push(turn),
            None => turns.last_mut()?.output.push(line.to_string()),
        }
    }
    (!turns.is_empty()).then_some(turns)
}

#[test]
fn cargo_run_is_the_program_itself_and_nothing_else_is_translated() {
    let turn = |typed: &str| Turn::begin(&format!("$ {typed}")).expect("turn");
    for (typed, real) in [
        ("cargo run -q -p pid-demo", "pid-demo"),
        (
            "cargo run -q -p pid-demo -- sh -c 'a -- b'",
            "pid-demo sh -c 'a -- b'",
        ),
        ("cargo run -q -p pid-demo | cat", "pid-demo | cat"),
        ("cargo run -q -p pid-demo --example orphan", "orphan"),
        ("cargo run -q -p pid-demo --example orphan -- x", "orphan x"),
        ("cargo test -p harness", "cargo test -p harness"),
        ("echo -- x", "echo -- x"),
    ] {
        assert_eq!(turn(typed).translated(), real);
    }
}

#[test]
fn comment_that_the_harness_prints_is_no_prompt() {
    let text = |first| format!("```console\n$ {first}\nTAP\n# check\n```\n");
    for (first, turns) in [("cargo run -q -p harness -- check x", 1), ("y", 2)]
    {
        let page = Page::parse(&text(first)).expect("a page");
        assert_eq!(page.blocks[0].turns.len(), turns, "{first}");
    }
}

#[test]
fn blessed_page_differs_in_its_sessions_only() {
    let text = "a\n```console\n$ b\nc\n# d\n```\ne\n```text\nf\n```\ng\n";
    let page = Page::parse(text).expect("a page");
    let mut blocks: Vec<Block> = page.sessions().cloned().collect();
    assert_eq!(page.with(&blocks), text);
    blocks[0].turns[0].output = vec!["C".into(), "CC".into()];
    assert_eq!(page.with(&blocks), text.replace("\nc\n", "\nC\nCC\n"));
}

#[test]
fn block_that_would_not_be_run_is_refused() {
    for (text, why) in [
        ("```\n$ x\n```\n", "1: console, sh or text?"),
        ("a\n  ```console\n$ x\n  ```\n", "2: console, sh or text?"),
        ("```console since x\n$ x\n```\n", "1: console, sh or text?"),
        ("```text\n$ x\n```\n", "1: a session must be a console block"),
        ("```console\nx\n```\n", "1: it begins without a prompt"),
        ("```console\n```\n", "1: it begins without a prompt"),
        ("```console\n$ x\n", "1: a block without end"),
    ] {
        assert_eq!(Page::parse(text).expect_err("refused"), why);
    }
}
