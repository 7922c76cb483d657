//! However a body is left, its scope is left too. Only at its end is anything registered.

use std::panic::{AssertUnwindSafe, catch_unwind};

use symm_core::{Path, ReduceOp, Result, symm, symmetric};

use crate::{Layer, Symm, paired, redirected};

impl Layer {
    #[symmetric(group = self.tp)]
    fn fails(&self, kept: &mut Option<Symm>) -> Result<()> {
        kept.insert(self.allocate()?).view(0..99)?;
        Ok(())
    }

    #[symmetric(group = self.tp, on_error = poison)]
    fn panics_itself(&self, kept: &mut Option<Symm>) -> ! {
        *kept = self.allocate().ok();
        panic!("a panic of the body")
    }
}

/// After `exit` no scope is open and `windows` are registered. The first collective sees to the
/// rest.
fn exits(windows: usize, exit: fn(&Layer, &mut Option<Symm>) -> Result<()>) -> Result<()> {
    paired(|layer| {
        let mut kept = None;
        let _ = exit(&layer, &mut kept);
        assert!(!redirected());
        assert_eq!(layer.tp.windows(), windows);
        let mut kept = kept.unwrap();
        let path = layer.tp.all_reduce_in_place(&mut kept, ReduceOp::Sum)?;
        assert_eq!((path, layer.tp.windows()), (Path::Symmetric, 1));
        Ok(())
    })
}

#[test]
fn at_the_end() -> Result<()> {
    exits(1, |layer, kept| {
        symm!(group = layer.tp, { *kept = Some(layer.allocate()?) })
    })
}

#[test]
fn of_a_function_by_an_error() -> Result<()> {
    exits(0, Layer::fails)
}

#[test]
fn of_a_function_by_a_panic() -> Result<()> {
    exits(0, |layer, kept| {
        catch_unwind(AssertUnwindSafe(|| layer.panics_itself(kept))).or(Ok(()))
    })
}

#[test]
fn by_a_question_mark() -> Result<()> {
    exits(0, |layer, kept| {
        symm!(group = layer.tp, {
            kept.insert(layer.allocate()?).view(0..99).map(drop)?
        })
    })
}

#[test]
fn by_return() -> Result<()> {
    exits(0, |layer, kept| {
        symm!(group = layer.tp, {
            *kept = Some(layer.allocate()?);
            return Ok(());
        })
    })
}

#[test]
fn by_a_break_with_a_value() -> Result<()> {
    exits(0, |layer, kept| {
        *kept = 'found: {
            for last in [false, true] {
                symm!(group = layer.tp, {
                    if last {
                        break 'found Some(layer.allocate()?);
                    }
                })?;
            }
            None
        };
        Ok(())
    })
}

#[test]
fn by_continue() -> Result<()> {
    exits(0, |layer, kept| {
        for _ in 0..2 {
            symm!(group = layer.tp, {
                *kept = Some(layer.allocate()?);
                continue;
            })?;
        }
        Ok(())
    })
}
