//! The WINDOW clause. A window may be based on one defined before it; each is checked whether it is used or not.

use std::collections::HashMap;

use sqlparser::ast::{self, NamedWindowDefinition, NamedWindowExpr, WindowSpec};

use super::window::windowing;
use super::{Binder, ident};
use crate::error::{Error, Result};

const IN_DEFINITION: &str = "window functions are not allowed in window definitions";

/// The windows of one SELECT.
#[derive(Default)]
pub(super) struct NamedWindows {
    list: Vec<NamedWindowDefinition>,
    /// Where each name is defined first.
    places: HashMap<String, usize>,
}

impl NamedWindows {
    pub(super) fn new(list: &[NamedWindowDefinition]) -> Self {
        let mut places = HashMap::new();
        for (at, window) in list.iter().enumerate() {
            places.entry(ident(&window.0)).or_insert(at);
        }
        Self {
            list: list.to_vec(),
            places,
        }
    }

    /// Place and definition of a window among the first `known`.
    fn find(&self, name: &ast::Ident, known: usize) -> Result<(usize, &WindowSpec)> {
        let wanted = ident(name);
        let at = self.places.get(&wanted).copied().filter(|at| *at < known);
        match at.map(|at| (at, &self.list[at].1)) {
            Some((at, NamedWindowExpr::WindowSpec(spec))) => Ok((at, spec)),
            _ => Err(Error::new(
                "42704",
                format!("window \"{wanted}\" does not exist"),
            )),
        }
    }

    /// `OVER name`.
    pub(super) fn named(&self, name: &ast::Ident) -> Result<WindowSpec> {
        let (at, spec) = self.find(name, usize::MAX)?;
        self.resolve(spec, at)
    }

    /// `OVER (base ORDER BY ... frame)`: with the base's partitions, and its order if there is one.
    pub(super) fn based(&self, spec: &WindowSpec) -> Result<WindowSpec> {
        self.resolve(spec, usize::MAX)
    }

    fn resolve(&self, spec: &WindowSpec, mut known: usize) -> Result<WindowSpec> {
        let mut made = spec.clone();
        while let Some(name) = made.window_name.take() {
            let (at, base) = self.find(&name, known)?;
            check_base(&made, &name, !base.order_by.is_empty(), base)?;
            made.partition_by.clone_from(&base.partition_by);
            if made.order_by.is_empty() {
                made.order_by.clone_from(&base.order_by);
            }
            made.window_name.clone_from(&base.window_name);
            known = at;
        }
        Ok(made)
    }
}

/// What `spec` may not say again. `ordered`: the base, or what that is based on, has an order.
fn check_base(
    spec: &WindowSpec,
    name: &ast::Ident,
    ordered: bool,
    base: &WindowSpec,
) -> Result<()> {
    let name = ident(name);
    let message = if !spec.partition_by.is_empty() {
        format!("cannot override PARTITION BY clause of window \"{name}\"")
    } else if !spec.order_by.is_empty() && ordered {
        format!("cannot override ORDER BY clause of window \"{name}\"")
    } else if base.window_frame.is_some() {
        format!("cannot copy window \"{name}\" because it has a frame clause")
    } else {
        return Ok(());
    };
    Err(windowing(message))
}

impl Binder<'_> {
    /// Checks the WINDOW clause when all else is bound. Its expressions are kept: they must fit the grouping as those of the
    /// select list do.
    pub(super) fn window_definitions(&mut self) -> Result<()> {
        let Some(level) = self.aggregates.last_mut() else {
            return Err(Error::internal("no query level"));
        };
        let windows = std::mem::take(&mut level.named_windows);
        let mut ordered: Vec<bool> = Vec::with_capacity(windows.list.len());
        for (at, NamedWindowDefinition(name, made)) in windows.list.iter().enumerate() {
            let located = |error| self.at(error, name.span);
            if windows.places.get(&ident(name)) != Some(&at) {
                let message = format!("window \"{}\" is already defined", ident(name));
                return Err(located(windowing(message)));
            }
            let NamedWindowExpr::WindowSpec(spec) = made else {
                let error = Error::new("42601", "a window is defined in parentheses");
                return Err(located(error));
            };
            let mut has_order = !spec.order_by.is_empty();
            if let Some(base) = &spec.window_name {
                let (of, found) = windows.find(base, at).map_err(located)?;
                check_base(spec, base, ordered[of], found).map_err(located)?;
                has_order |= ordered[of];
            }
            ordered.push(has_order);
            self.forbid_windows(Some(IN_DEFINITION));
            let bound = self.window_keys(spec);
            let frame = self.window_frame(spec.window_frame.as_ref());
            self.forbid_windows(None);
            let (partition, order) = bound?;
            frame?;
            if let Some(level) = self.aggregates.last_mut() {
                level.defined.extend(partition);
                level.defined.extend(order.into_iter().map(|(key, ..)| key));
            }
        }
        Ok(())
    }
}
