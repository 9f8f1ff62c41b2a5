// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The view of `top` on a terminal.

use super::Top;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Row, Table};
use ratatui::Frame;

/// Draws one look.
pub fn draw(top: &Top, paused: bool, frame: &mut Frame) {
    let rails = top.rail_rows();
    let pairs = top.pair_rows();
    let rail_lines = u16::try_from(rails.len()).unwrap_or(u16::MAX).saturating_add(1);
    let [head, upper, lower, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(rail_lines),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Line::from(top.head()).bold(), head);
    frame.render_widget(table(&rails), upper);
    frame.render_widget(table(&pairs), lower);
    let keys = if paused {
        "paused: blank goes on, q quits"
    } else {
        "blank pauses, q quits"
    };
    frame.render_widget(Line::from(keys).dim(), foot);
}

/// A table whose first row is the heading, columns as wide as their longest cell.
fn table(rows: &[Vec<String>]) -> Table<'_> {
    let columns = rows.first().map_or(0, Vec::len);
    let widths = (0..columns).map(|n| {
        let longest = rows
            .iter()
            .filter_map(|row| row.get(n))
            .map(|cell| cell.chars().count())
            .max();
        Constraint::Length(u16::try_from(longest.unwrap_or(0)).unwrap_or(u16::MAX))
    });
    let body = rows.iter().skip(1).map(|row| Row::new(row.iter().map(String::as_str)));
    let head = rows
        .first()
        .map(|row| Row::new(row.iter().map(String::as_str)).style(Style::new().cyan()));
    Table::new(body, widths)
        .column_spacing(2)
        .header(head.unwrap_or_default())
}
