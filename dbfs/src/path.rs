//! Absolute paths in a user's tree, split as the procedures want them.

use dbos_client::{Error, Result};

/// Longest name of a file or directory, in bytes, as in POSIX systems.
const NAME_BYTES_MAX: usize = 255;
/// Longest path, in bytes.
const PATH_BYTES_MAX: usize = 4096;

/// How a hidden name ends.
const HIDDEN_END: &str = ".part";

/// A fresh name for what must not be seen under `name`: not yet, or not any more.
pub fn hidden_name(name: &str) -> String {
    // Beside a name of full length there is no room for more.
    let kept: String = name.chars().take(NAME_BYTES_MAX / 8).collect();
    format!(".{kept}.{}{HIDDEN_END}", uuid::Uuid::new_v4().simple())
}

/// True for what [`hidden_name`] makes.
pub fn is_hidden_name(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(HIDDEN_END)
}

/// A file or directory other than the root: its directory and its name, and the same of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    pub parent: &'a str,
    pub name: &'a str,
    /// Directory of the parent; empty, like `up_name`, if the parent is the root.
    pub up_parent: &'a str,
    /// Name of the parent.
    pub up_name: &'a str,
}

impl<'a> Place<'a> {
    /// The same directory, another name.
    pub fn beside(self, name: &'a str) -> Self {
        Self { name, ..self }
    }

    pub fn parse(path: &'a str) -> Result<Self> {
        check_path(path)?;
        let (parent, name) = split(path).ok_or_else(|| bad(path, "it is the root directory"))?;
        let (up_parent, up_name) = split(parent).unwrap_or_default();
        Ok(Self {
            parent,
            name,
            up_parent,
            up_name,
        })
    }
}

/// A path as directories are listed by: `/` or `/a/b`.
pub fn check_path(path: &str) -> Result<()> {
    if path.len() > PATH_BYTES_MAX {
        return Err(bad(path, "longer than 4096 bytes"));
    }
    if path == "/" {
        return Ok(());
    }
    let rest = path
        .strip_prefix('/')
        .ok_or_else(|| bad(path, "not absolute"))?;
    rest.split('/').try_for_each(check_name)
}

/// A single name.
pub fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(bad(name, "names are not empty, '.' or '..'"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(bad(name, "longer than 255 bytes"));
    }
    if name.contains(['/', '\0']) {
        return Err(bad(name, "a name has no '/' and no zero byte"));
    }
    Ok(())
}

/// Directory and name; `None` for the root.
fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/').filter(|(_, name)| !name.is_empty())?;
    let parent = if parent.is_empty() { "/" } else { parent };
    Some((parent, name))
}

fn bad(path: &str, why: &str) -> Error {
    Error::request(format!("bad path {path:?}: {why}"))
        .hint("paths look like /directory/file")
        .sqlstate_is("22023")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> [&str; 4] {
        let place = Place::parse(path).unwrap();
        [place.up_parent, place.up_name, place.parent, place.name]
    }

    #[test]
    fn a_path_is_split_twice() {
        assert_eq!(parts("/a"), ["", "", "/", "a"]);
        assert_eq!(parts("/a/b"), ["/", "a", "/a", "b"]);
        assert_eq!(parts("/a/b/c"), ["/a", "b", "/a/b", "c"]);
    }

    #[test]
    fn a_hidden_name_is_a_name() {
        for name in ["a", &"x".repeat(255), &"ä".repeat(127)] {
            let hidden = hidden_name(name);
            check_name(&hidden).unwrap();
            assert!(is_hidden_name(&hidden) && !is_hidden_name(name));
        }
    }

    #[test]
    fn paths_that_could_mean_something_else_are_refused() {
        let long = format!("/{}", "x".repeat(256));
        for path in [
            "", "/", "a", "a/b", "/a/", "//a", "/a//b", "/a/../b", "/.", "/a\0b", &long,
        ] {
            assert_eq!(
                Place::parse(path).unwrap_err().sqlstate(),
                Some("22023"),
                "{path:?}"
            );
        }
        assert!(check_path("/").is_ok());
    }
}
