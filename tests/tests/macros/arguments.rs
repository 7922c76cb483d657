//! The arguments of both macros.

use std::sync::{Arc, Mutex};

use symm_core::{Path, Reason, ReduceOp, Result, SymmBuf, symm, symmetric};

use crate::{Layer, Symm, alone, paired, redirected};

#[symmetric(group = layer.tp, when = elements > 1)]
fn if_large(layer: &Layer, elements: usize) -> Result<Symm> {
    SymmBuf::zeros(elements)
}

#[test]
fn when_switches_the_scope_off() -> Result<()> {
    paired(|layer| {
        let path = |mut buf: Symm| layer.tp.all_reduce_in_place(&mut buf, ReduceOp::Sum);
        assert_eq!(path(if_large(&layer, 1)?)?, Path::Plain(Reason::Disabled));
        assert_eq!(path(if_large(&layer, 2)?)?, Path::Symmetric);
        let block = symm!(group = layer.tp, when = false, { layer.allocate()? })?;
        assert_eq!(path(block)?, Path::Plain(Reason::Disabled));
        Ok(())
    })
}

#[test]
fn groups_are_whatever_dereferences_to_one() -> Result<()> {
    alone(|Layer { tp, .. }| {
        assert!(symm!(group = &tp, { redirected() })?);
        assert!(symm!(group = Arc::new(tp.clone()), { redirected() })?);
        let first = tp.rank() == 0;
        assert!(symm!(group = if first { &tp } else { unreachable!() }, {
            redirected()
        })?);
        Ok(())
    })
}

#[symmetric(group = shared.lock().unwrap().tp)]
fn is_unlocked(shared: &Mutex<Layer>) -> Result<bool> {
    Ok(shared.try_lock().is_ok())
}

#[test]
fn temporaries_of_the_group_end_before_the_body() -> Result<()> {
    alone(|layer| {
        let shared = Mutex::new(layer);
        assert!(is_unlocked(&shared)?);
        let unlocked = symm!(group = shared.lock().unwrap().tp, {
            shared.try_lock().is_ok()
        })?;
        assert!(unlocked);
        Ok(())
    })
}
