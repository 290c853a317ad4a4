//! The shortest story that still breaks a promise.
//!
//! Steps are left out, first many at a time and then one by one, as long as some promise stays broken; it need not be the same one, since
//! what is wrong may show in another way in a shorter story. Faults are then made as short as they can be.

use std::time::Duration;

use super::{Story, Theatre, Told, What};

/// Stories played at most to find a shorter one.
const TRIES: usize = 400;

/// What is left of a story that breaks a promise, and what came of that.
///
/// # Errors
/// If a story cannot be played.
pub fn shortest(theatre: &Theatre, story: Story, told: Told) -> anyhow::Result<(Story, Told)> {
    let mut best = (story, told);
    let mut tries = 0;
    let mut attempt = |story: Story, best: &mut (Story, Told)| -> anyhow::Result<bool> {
        tries += 1;
        if tries > TRIES {
            return Ok(false);
        }
        let told = theatre.play(&story)?;
        let broken = told.broken.is_some();
        if broken {
            *best = (story, told);
        }
        Ok(broken)
    };
    let mut size = best.0.steps.len().div_ceil(2);
    while size > 0 {
        let mut from = 0;
        let mut shorter = false;
        while from < best.0.steps.len() {
            let mut story = best.0.clone();
            let to = (from + size).min(story.steps.len());
            story.steps.drain(from..to);
            if attempt(story, &mut best)? {
                shorter = true;
            } else {
                from += size;
            }
        }
        if size > 1 || !shorter {
            size /= 2;
        }
    }
    for at in 0..best.0.steps.len() {
        loop {
            let mut story = best.0.clone();
            let (What::Fault(_, length) | What::Crash(length)) = &mut story.steps[at].what else {
                break;
            };
            if *length < Duration::from_millis(100) {
                break;
            }
            *length /= 2;
            if !attempt(story, &mut best)? {
                break;
            }
        }
    }
    Ok(best)
}
