// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A view that is drawn anew at an interval, on a terminal, until a person has seen enough.

use anyhow::{Context, Result};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::Frame;
use std::time::{Duration, Instant};

/// What a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    Pause,
}

/// Draws what `look` finds, at once and then at each interval, until `q`, Esc or Ctrl-C. A blank stops and goes on.
///
/// # Errors
///
/// No terminal, or what `look` fails with; the terminal is as it was then.
pub fn watch<T>(
    interval: Duration,
    mut look: impl FnMut() -> Result<T>,
    draw: impl Fn(&T, bool, &mut Frame),
) -> Result<()> {
    let mut terminal = ratatui::try_init().context("the terminal cannot be drawn on")?;
    let mut watch = || -> Result<()> {
        let mut seen = look()?;
        let mut paused = false;
        loop {
            terminal.draw(|frame| draw(&seen, paused, frame))?;
            let next = Instant::now() + interval;
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                if !event::poll(left)? {
                    break;
                }
                match wish(&event::read()?) {
                    Some(Wish::Quit) => return Ok(()),
                    Some(Wish::Pause) => paused = !paused,
                    None => {}
                }
                terminal.draw(|frame| draw(&seen, paused, frame))?;
            }
            if !paused {
                seen = look()?;
            }
        }
    };
    let outcome = watch();
    ratatui::restore();
    outcome
}

fn wish(event: &Event) -> Option<Wish> {
    let Event::Key(key) = event else { return None };
    if key.kind != KeyEventKind::Press {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char(' ') => Some(Wish::Pause),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::crossterm::event::KeyEvent;

    #[test]
    fn keys_mean_what_the_last_line_says() {
        let key = |code, modifiers| wish(&Event::Key(KeyEvent::new(code, modifiers)));
        let none = KeyModifiers::NONE;
        assert_eq!(key(KeyCode::Char('q'), none), Some(Wish::Quit));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Quit));
        assert_eq!(key(KeyCode::Char('c'), none), None);
        assert_eq!(key(KeyCode::Char(' '), none), Some(Wish::Pause));
        assert_eq!(wish(&Event::FocusLost), None);
    }
}
