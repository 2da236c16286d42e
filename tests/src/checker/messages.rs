//! Inputs: what was sent, what was acknowledged, and what lists have of it (I1 to I4).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Outcome, Session, Tests};
use crate::history::What;

/// What is known of one channel.
#[derive(Default)]
struct Channel<'a> {
    /// Number of the last input sent.
    sent: u64,
    /// Inputs up to this one are acknowledged.
    acked: u64,
    /// Items by the number of their input, in their order.
    items: Vec<(u64, &'a str)>,
}

/// A list that was asked for: what was acknowledged by then.
type Asked<'a> = HashMap<(&'a str, u64), BTreeMap<&'a str, u64>>;

#[derive(Default)]
struct Inputs<'a> {
    channels: BTreeMap<&'a str, Channel<'a>>,
    /// Who has sent an item, as which input.
    senders: HashMap<&'a str, (&'a str, u64)>,
    asked: Asked<'a>,
}

pub(super) fn check(session: &Session<'_>, tests: &mut Tests) -> Outcome {
    let mut inputs = Inputs::default();
    for (at, event) in session.events.iter().enumerate() {
        match &event.what {
            What::Send { channel, n, item } => {
                inputs.send(channel, *n, item.as_deref(), at, tests)?;
            }
            What::Ack { channel, n } => inputs.ack(channel, *n, at, tests)?,
            What::Welcome { channel, attach, applied: Some(applied), .. } => {
                let acked = inputs.channels.entry(channel).or_default().acked;
                if !session.is_memory && *attach > 1 {
                    tests.must(1, at, *applied >= acked, || {
                        format!(
                            "{channel}: input {acked} was acknowledged, now {applied} is the last"
                        )
                    })?;
                }
                inputs.ack(channel, *applied, at, tests)?;
            }
            What::Apply { channel, n, .. } => {
                if let Some(Channel { sent, .. }) = inputs.channels.get(channel.as_str()) {
                    tests.must(4, at, n <= sent, || {
                        format!("input {n} of {channel} is applied, {sent} is the last one sent")
                    })?;
                }
            }
            What::Found { channel, after, items } => {
                inputs.found(session, channel, *after, items, at, tests)?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl<'a> Inputs<'a> {
    fn send(
        &mut self,
        channel: &'a str,
        n: u64,
        item: Option<&'a str>,
        at: usize,
        tests: &mut Tests,
    ) -> Outcome {
        let known = self.channels.entry(channel).or_default();
        let last = known.sent;
        tests.must(3, at, n == last + 1, || {
            format!("{channel} sends input {n} after {last}: the client is at fault")
        })?;
        known.sent = n;
        let Some(item) = item else {
            let acked = self.channels.iter().map(|(name, known)| (*name, known.acked)).collect();
            self.asked.insert((channel, n), acked);
            return Ok(());
        };
        known.items.push((n, item));
        let twice = self.senders.insert(item, (channel, n));
        tests.must(4, at, twice.is_none(), || {
            format!("item {item} is sent twice, as {twice:?} too: the client is at fault")
        })
    }

    fn ack(&mut self, channel: &'a str, n: u64, at: usize, tests: &mut Tests) -> Outcome {
        let known = self.channels.entry(channel).or_default();
        let sent = known.sent;
        tests.must(4, at, n <= sent, || {
            format!("input {n} of {channel} is acknowledged, {sent} is the last one sent")
        })?;
        known.acked = known.acked.max(n);
        Ok(())
    }

    /// The answer to input `after` of a channel.
    fn found(
        &self,
        session: &Session<'_>,
        asker: &str,
        after: u64,
        items: &[String],
        at: usize,
        tests: &mut Tests,
    ) -> Outcome {
        let mut seen = HashSet::new();
        // How many items of each channel the list has.
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for item in items {
            let sender = self.senders.get(item.as_str());
            tests.must(4, at, sender.is_some(), || format!("item {item} was never sent"))?;
            let Some((channel, n)) = sender else { continue };
            let is_new = seen.insert(item);
            if !session.is_memory {
                tests.must(2, at, is_new, || format!("item {item} is there twice"))?;
            }
            let sent = &self.channels[channel].items;
            let count = counts.entry(channel).or_default();
            if session.is_memory {
                // What a worker took with it leaves gaps, but nothing is out of order.
                *count += sent[*count..].iter().take_while(|(number, _)| number < n).count();
            }
            let next = sent.get(*count);
            tests.must(3, at, next.is_some_and(|(number, _)| number == n), || {
                let next = next.map_or("nothing", |(_, item)| item);
                format!("{item} follows in the list where {next} of {channel} must")
            })?;
            *count += 1;
        }
        if session.is_memory {
            return Ok(());
        }
        let acked = self.asked.get(&(asker, after));
        for (channel, known) in &self.channels {
            let acked = acked.and_then(|acked| acked.get(channel)).copied().unwrap_or(0);
            // What the asker itself has sent before came before.
            let (invariant, due) = if *channel == asker { (3, after) } else { (1, acked) };
            let count = counts.get(channel).copied().unwrap_or(0);
            for (index, (n, item)) in known.items.iter().enumerate() {
                if *n <= acked {
                    tests.must(1, at, index < count, || {
                        format!("{item}, input {n} of {channel}, was acknowledged and is lost")
                    })?;
                } else if *n < due {
                    tests.must(invariant, at, index < count, || {
                        format!(
                            "{item}, input {n} of {channel}, was sent before {after} and is lost"
                        )
                    })?;
                }
            }
        }
        Ok(())
    }
}
