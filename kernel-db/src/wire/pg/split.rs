//! Where statements of a text begin and end.
//!
//! Knows just enough of PostgreSQL's lexical rules to find the semicolons that separate statements: strings, quoted
//! identifiers, dollar quotes and comments. Everything else is the parser's.

/// The statements of `text` with their byte offsets; pieces without any token are left out.
pub fn statements(text: &str) -> Vec<(usize, &str)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut start) = (0, None);
    while at < bytes.len() {
        if let Some(end) = blank(text, at) {
            at = end;
            continue;
        }
        if bytes[at] == b';' {
            if let Some(start) = start.take() {
                found.push((start, text[start..at].trim_end()));
            }
            at += 1;
            continue;
        }
        start.get_or_insert(at);
        at = token(text, at);
    }
    if let Some(start) = start {
        found.push((start, text[start..].trim_end()));
    }
    found
}

/// End of the white space or comment at `at`, if there is one.
pub fn blank(text: &str, at: usize) -> Option<usize> {
    let rest = &text.as_bytes()[at..];
    if rest.first().is_some_and(u8::is_ascii_whitespace) {
        return Some(at + 1);
    }
    if rest.starts_with(b"--") {
        return Some(
            rest.iter()
                .position(|&b| b == b'\n')
                .map_or(text.len(), |n| at + n + 1),
        );
    }
    if !rest.starts_with(b"/*") {
        return None;
    }
    let (mut depth, mut n) = (0usize, 0);
    while n < rest.len() {
        if rest[n..].starts_with(b"/*") {
            depth += 1;
            n += 2;
        } else if rest[n..].starts_with(b"*/") {
            depth -= 1;
            n += 2;
            if depth == 0 {
                return Some(at + n);
            }
        } else {
            n += 1;
        }
    }
    Some(text.len())
}

/// End of the token at `at`, which is neither blank nor a semicolon.
pub fn token(text: &str, at: usize) -> usize {
    let rest = &text.as_bytes()[at..];
    match rest[0] {
        b'\'' => at + quoted(rest, b'\'', false),
        b'"' => at + quoted(rest, b'"', false),
        b'$' => at + dollar(rest).unwrap_or(1),
        b'e' | b'E' if rest.get(1) == Some(&b'\'') => at + 1 + quoted(&rest[1..], b'\'', true),
        first if word(first) => {
            at + rest
                .iter()
                .position(|&b| !word(b) && b != b'$')
                .unwrap_or(rest.len())
        }
        _ => at + 1,
    }
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Length of a quoted piece; a doubled quote stands for itself.
fn quoted(rest: &[u8], quote: u8, escapes: bool) -> usize {
    let mut n = 1;
    while n < rest.len() {
        match rest[n] {
            b'\\' if escapes => n += 2,
            byte if byte == quote => {
                if rest.get(n + 1) != Some(&quote) {
                    return n + 1;
                }
                n += 2;
            }
            _ => n += 1,
        }
    }
    rest.len()
}

/// Length of a dollar-quoted string, if `rest` begins with one.
fn dollar(rest: &[u8]) -> Option<usize> {
    let tag = 2 + rest[1..].iter().position(|&b| b == b'$')?;
    let name = &rest[1..tag - 1];
    if !name.iter().all(|&b| word(b)) || name.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let (open, body) = rest.split_at(tag);
    let end = body.windows(tag).position(|window| window == open);
    Some(end.map_or(rest.len(), |n| tag + n + tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        statements(text)
            .into_iter()
            .map(|(_, statement)| statement)
            .collect()
    }

    #[test]
    fn semicolons_inside_quotes_and_comments_do_not_separate() {
        assert_eq!(texts("select 1; select 2 ;"), ["select 1", "select 2"]);
        assert_eq!(
            texts("select ';''' ; select \"a;b\""),
            ["select ';'''", "select \"a;b\""]
        );
        assert_eq!(texts(r"select E'\';' ; x"), [r"select E'\';'", "x"]);
        assert_eq!(
            texts("create function f() as $a$ x; $$ y; $a$ ; z"),
            ["create function f() as $a$ x; $$ y; $a$", "z"]
        );
        assert_eq!(
            texts("select $1; select a$1;b"),
            ["select $1", "select a$1", "b"]
        );
        assert_eq!(
            texts("-- a;b\nselect /* ; /* ; */ ; */ 1"),
            ["select /* ; /* ; */ ; */ 1"]
        );
        assert_eq!(texts(" ;; -- nothing\n ; "), Vec::<&str>::new());
        assert_eq!(texts("select 'open; "), ["select 'open;"]);
        assert_eq!(statements("  select 1;\nselect x")[1], (12, "select x"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_cut_without_panic(text in "[ ;'\"$aE1/*\n\\\\é-]{0,40}") {
            for (at, statement) in statements(&text) {
                proptest::prop_assert_eq!(&text[at..at + statement.len()], statement);
            }
        }
    }
}
