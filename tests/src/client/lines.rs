//! What a client hears, as its history has it.

use single_state_proto::browser::ResetReason;

use super::Heard;
use crate::history::What;

/// The line for something that a channel hears, if there is one.
pub(super) fn line(heard: &Heard, channel: String, attach: u64) -> Option<What> {
    let what = match heard {
        Heard::Welcome(welcome) => What::Welcome {
            channel,
            attach,
            epoch: welcome.epoch,
            resumed: welcome.resumed,
            applied: welcome.applied,
            durability: welcome.durability,
        },
        Heard::Acked(n) => What::Ack { channel, n: *n },
        Heard::Output { epoch, rev, body } => {
            let is_assign = body["tag"] == "assign";
            let of = body[if is_assign { "key" } else { "tag" }].as_str().unwrap_or_default();
            let count = body["value"].as_u64().filter(|_| is_assign && of == "count");
            What::Output { channel, epoch: *epoch, rev: *rev, of: of.to_owned(), count }
        }
        Heard::Binary { epoch, rev, .. } => {
            let (epoch, rev) = (*epoch, *rev);
            What::Output { channel, epoch, rev, of: "binary".to_owned(), count: None }
        }
        Heard::Reset(reason) => What::Reset { channel, reason: *reason },
        Heard::Expired(_) => What::Reset { channel, reason: ResetReason::ChannelExpired },
        Heard::Bye(..) => return None,
    };
    Some(what)
}
