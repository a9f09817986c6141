//! What the colours and signs of a chart mean, beside it: on it they would hide points.

use plotters::prelude::*;

use super::{Area, THEIRS};

/// Pixels that a legend takes beside a chart.
pub const WIDTH: u32 = 250;
const TOP: i32 = 40;
const ROW: i32 = 19;

/// How a series is drawn.
pub enum Sign {
    Line(ShapeStyle),
    Bar(RGBColor),
    Dashes,
    Cross,
}

/// Signs and names, from the top.
#[derive(Default)]
pub struct Legend(Vec<(Sign, String)>);

impl Legend {
    pub fn add(&mut self, sign: Sign, name: &str) {
        self.0.push((sign, name.to_string()));
    }

    pub fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let theirs = ShapeStyle::from(THEIRS);
        for (row, (sign, name)) in (0..).zip(&self.0) {
            let y = TOP + ROW * row;
            let stroke = |from, to, style| PathElement::new(vec![(from, y), (to, y)], style);
            match sign {
                Sign::Line(style) => area.draw(&stroke(6, 22, *style))?,
                Sign::Bar(color) => {
                    area.draw(&Rectangle::new([(7, y - 5), (21, y + 5)], color.filled()))?;
                }
                Sign::Dashes => {
                    area.draw(&stroke(6, 12, theirs))?;
                    area.draw(&stroke(16, 22, theirs))?;
                }
                Sign::Cross => area.draw(&Cross::new((14, y), 5, theirs.stroke_width(2)))?,
            }
            area.draw(&Text::new(name.clone(), (28, y - 6), ("sans-serif", 12)))?;
        }
        Ok(())
    }
}
