//! A page as text: its blocks, and what is typed and shown in them.

/// A page, and its blocks.
#[derive(Debug)]
pub struct Page {
    lines: Vec<String>,
    /// In the order of the page.
    pub blocks: Vec<Block>,
}

/// The kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A session: run and compared.
    Console(Ends),
    /// Commands that cannot be run by a test.
    Shell,
    /// A drawing.
    Text,
}

/// When a session begins and ends. `console stays` is a terminal that stays
/// open at the end of its block: the other pane, in which a program runs while
/// the next blocks are typed. `console again` types more lines there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// It begins and ends with its block.
    Here,
    /// The block opens the other pane, and leaves it open.
    Stays,
    /// The block types in the other pane, and leaves it open.
    Again,
}

/// A fenced block.
#[derive(Debug, Clone)]
pub struct Block {
    pub kind: Kind,
    /// The number of the opening fence's line, counted from 1.
    pub line: usize,
    /// How many lines are between the fences.
    length: usize,
    first: String,
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
        let lines: Vec<String> = text.lines().map(String::from).collect();
        let mut blocks = Vec::new();
        let mut numbered = lines.iter().zip(1..);
        while let Some((fence, line)) = numbered.next() {
            let since = fence.strip_prefix("```console since ");
            let since = since.and_then(release);
            let kind = match fence.as_str() {
                _ if since.is_some() => Kind::Console(Ends::Here),
                "```console" => Kind::Console(Ends::Here),
                "```console stays" => Kind::Console(Ends::Stays),
                "```console again" => Kind::Console(Ends::Again),
                "```sh" => Kind::Shell,
                "```text" => Kind::Text,
                text if text.trim_start().starts_with("```") => {
                    return Err(format!("{line}: console, sh or text?"));
                }
                _ => continue,
            };
            let inner: Vec<&str> = numbered
                .by_ref()
                .map(|(text, _)| text.as_str())
                .take_while(|text| *text != "```")
                .collect();
            let length = inner.len();
            if lines.get(line + length).is_none() {
                return Err(format!("{line}: a block without end"));
            }
            let first = inner.first().copied().unwrap_or_default().to_string();
            let prompts = inner.iter().any(|text| Turn::begin(text).is_some());
            let turns = match kind {
                Kind::Console(_) => turns(&inner)
                    .ok_or(format!("{line}: it begins without a prompt"))?,
                _ if prompts => {
                    return Err(format!(
                        "{line}: a session must be a console block"
                    ));
                }
                _ => Vec::new(),
            };
            blocks.push(Block { kind, line, length, first, since, turns });
        }
        Ok(Page { lines, blocks })
    }

    /// The blocks that are run.
    pub fn sessions(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|it| matches!(it.kind, Kind::Console(_)))
    }

    /// The page's text with these sessions in place of its own.
    pub fn with(&self, sessions: &[Block]) -> String {
        let mut sessions = sessions.iter();
        let mut from = 0;
        let mut text = Vec::new();
        for block in self.sessions() {
            text.extend_from_slice(&self.lines[from..block.line]);
            let session = sessions.next().expect("as many as on the page");
            text.extend(session.turns.iter().flat_map(Turn::lines));
            from = block.line + block.length;
        }
        text.extend_from_slice(&self.lines[from..]);
        text.join("\n") + "\n"
    }
}

impl Block {
    /// When this session begins and ends.
    pub fn ends(&self) -> Ends {
        match self.kind {
            Kind::Console(ends) => ends,
            _ => Ends::Here,
        }
    }

    /// The first line between the fences.
    pub fn first(&self) -> String {
        self.first.clone()
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
        let mut parts = self.typed.split("cargo run -q -p ");
        let mut line = parts.next().unwrap_or_default().to_string();
        for part in parts {
            let (mut name, mut rest) = word(part);
            if let Some(example) = rest.strip_prefix(" --example ") {
                (name, rest) = word(example);
            }
            line += name;
            line += rest.strip_prefix(" --").unwrap_or(rest);
        }
        line
    }
}

/// The first word, and what follows it.
fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(' ').unwrap_or(text.len()))
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
