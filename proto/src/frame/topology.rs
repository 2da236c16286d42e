//! TOPOLOGY: a gateway tells a worker the newest list it knows.

use bytes::{BufMut, Bytes};

use super::field::{Fields, put_text};
use crate::error::Malformed;
use crate::id::Generation;
use crate::placement::Placement;
use crate::topology::Topology;

pub(super) fn put_topology(out: &mut impl BufMut, topology: &Topology) {
    out.put_u64(topology.generation().0);
    out.put_u8(match topology.placement() {
        Placement::Modulo => 1,
        Placement::Jump => 2,
    });
    out.put_u16(topology.workers().len() as u16);
    for address in topology.workers() {
        put_text(out, address);
    }
}

pub(super) fn get_topology(fields: &mut Fields) -> Result<Topology, Malformed> {
    let generation = Generation(fields.u64()?);
    let placement = match fields.u8()? {
        1 => Placement::Modulo,
        2 => Placement::Jump,
        _ => return Err(Malformed::Field("a placement that is none")),
    };
    let workers = (0..fields.u16()?).map(|_| fields.text()).collect::<Result<_, _>>()?;
    Topology::new(generation, placement, workers)
        .map_err(|_| Malformed::Field("a topology that is none"))
}

pub(super) fn decode(payload: Bytes) -> Result<Topology, Malformed> {
    get_topology(&mut Fields::new("TOPOLOGY", payload))
}
