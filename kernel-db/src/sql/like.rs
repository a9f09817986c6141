//! LIKE and ILIKE patterns.

use crate::error::{Error, Result};

/// A pattern taken apart once, matched many times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LikePattern {
    parts: Vec<Part>,
    ignore_case: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Literal(char),
    /// `_`
    One,
    /// `%`
    Any,
    /// An escape character with nothing behind it: as in PostgreSQL an error only for a text that gets so far.
    Dangling,
}

impl LikePattern {
    /// `escape` is the escape character, `None` for ESCAPE ''; without an ESCAPE clause it is a backslash.
    pub fn new(pattern: &str, escape: Option<char>, ignore_case: bool) -> Self {
        let mut parts = Vec::with_capacity(pattern.len());
        let mut chars = pattern.chars();
        // Within `%_%_` every `%` but the first says nothing new.
        let mut behind_any = false;
        while let Some(c) = chars.next() {
            let wild = Some(c) != escape && (c == '%' || c == '_');
            behind_any &= wild;
            if Some(c) == escape {
                match chars.next() {
                    Some(literal) => parts.push(Part::Literal(fold(literal, ignore_case))),
                    None => parts.push(Part::Dangling),
                }
            } else if c == '%' {
                if !behind_any {
                    parts.push(Part::Any);
                }
                behind_any = true;
            } else if c == '_' {
                parts.push(Part::One);
            } else {
                parts.push(Part::Literal(fold(c, ignore_case)));
            }
        }
        Self { parts, ignore_case }
    }

    /// 22025 if the text reaches an escape character at the pattern's end.
    pub fn matches(&self, text: &str) -> Result<bool> {
        if self.ignore_case {
            let folded: Vec<char> = text.chars().map(|c| fold(c, true)).collect();
            return self.run(&folded);
        }
        self.run(&text.chars().collect::<Vec<_>>())
    }

    /// On a mismatch only the last `%` needs to take one character more: linear in text times pattern, no recursion.
    fn run(&self, text: &[char]) -> Result<bool> {
        let (mut at, mut part) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while at < text.len() {
            let matched = match self.parts.get(part) {
                Some(Part::Any) => {
                    self.check_behind_any(part + 1, text.len() - at)?;
                    retry = Some((at, part + 1));
                    part += 1;
                    continue;
                }
                Some(Part::One) => true,
                Some(Part::Literal(c)) => *c == text[at],
                Some(Part::Dangling) => return Err(dangling()),
                None => false,
            };
            if matched {
                at += 1;
                part += 1;
            } else if let Some((from, after)) = retry {
                retry = Some((from + 1, after));
                at = from + 1;
                part = after;
            } else {
                return Ok(false);
            }
        }
        Ok(self.parts[part..].iter().all(|part| *part == Part::Any))
    }

    /// PostgreSQL passes all `_` behind a `%` at once, and then looks at the pattern before the text: an escape character at
    /// its end is met where the text is used up too. `left` is the text from the `%` on, in characters.
    fn check_behind_any(&self, from: usize, left: usize) -> Result<()> {
        let behind = self.parts[from..].iter();
        let ones = behind.take_while(|part| **part == Part::One).count();
        match self.parts.get(from + ones) {
            Some(Part::Dangling) if ones <= left => Err(dangling()),
            _ => Ok(()),
        }
    }

    /// The literal text every match begins with: bounds of an index scan. Empty when case is ignored.
    pub fn prefix(&self) -> String {
        if self.ignore_case {
            return String::new();
        }
        self.parts
            .iter()
            .map_while(|part| match part {
                Part::Literal(c) => Some(*c),
                Part::One | Part::Any | Part::Dangling => None,
            })
            .collect()
    }
}

fn dangling() -> Error {
    Error::new("22025", "LIKE pattern must not end with escape character")
}

/// Letters of ASCII only, as in PostgreSQL's locale C.
fn fold(c: char, ignore_case: bool) -> char {
    match ignore_case {
        true => c.to_ascii_lowercase(),
        false => c,
    }
}

/// One match without keeping the pattern.
pub fn like(text: &str, pattern: &str, escape: Option<char>, ignore_case: bool) -> Result<bool> {
    LikePattern::new(pattern, escape, ignore_case).matches(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_postgresql_does() {
        for (text, pattern, expected) in [
            ("abc", "abc", true),
            ("abc", "a%", true),
            ("abc", "_b_", true),
            ("abc", "a_", false),
            ("", "%", true),
            ("", "_", false),
            ("abcbc", "%bc", true),
            ("ab", "a%%b", true),
            ("a%b", "a\\%b", true),
            ("axb", "a\\%b", false),
            ("ABC", "abc", false),
            ("äöü", "_ö_", true),
            ("mississippi", "%iss%ip%", true),
            ("abc", "%d%", false),
            ("abc", "", false),
            ("", "", true),
        ] {
            assert_eq!(
                like(text, pattern, Some('\\'), false).unwrap(),
                expected,
                "{text} {pattern}"
            );
        }
        assert!(like("äBC", "äb%", Some('\\'), true).unwrap());
        assert!(!like("ÄBC", "äb%", Some('\\'), true).unwrap());
        assert!(like("a!b", "a!!b", Some('!'), false).unwrap());
        assert!(like("a\\b", "a\\b", None, false).unwrap());
    }

    #[test]
    fn an_escape_at_the_end_fails_a_text_that_gets_there() {
        for (text, pattern) in [
            ("abcd", "abc\\"),
            ("abc", "%\\"),
            ("abc", "%b\\"),
            ("a", "%_\\"),
            ("ab", "_%\\"),
            ("ab", "%_%_%\\"),
            ("abcbc", "%c%b%_\\"),
        ] {
            let found = like(text, pattern, Some('\\'), false);
            assert_eq!(
                found.map_err(|e| e.sqlstate().to_string()),
                Err("22025".to_string()),
                "{text} {pattern}"
            );
        }
        for (text, pattern) in [
            ("abc", "abc\\"),
            ("abd", "abc\\"),
            ("", "%\\"),
            ("a", "_%\\"),
            ("a", "%__%\\"),
            ("a", "_%\\x\\"),
            ("abc", "%c%b%_\\"),
            ("abc", "a%x\\"),
        ] {
            assert!(
                !like(text, pattern, Some('\\'), false).unwrap(),
                "{text} {pattern}"
            );
        }
    }

    #[test]
    fn many_wildcards_stay_fast() {
        // Backtracking into every wildcard would take 5,000 to the power of 50 steps.
        let text = "a".repeat(5_000);
        assert!(!like(&text, &("%a".repeat(50) + "b"), None, false).unwrap());
    }

    #[test]
    fn prefixes_are_literal() {
        let prefix = |pattern| LikePattern::new(pattern, Some('\\'), false).prefix();
        assert_eq!(prefix("ab%c"), "ab");
        assert_eq!(prefix("a\\%b_"), "a%b");
        assert_eq!(prefix("%"), "");
    }
}
