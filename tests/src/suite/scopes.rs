//! Scopes: where allocations go, and that every way out restores it.

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use symm_core::{Backend, Buf, Error, Path, Reason, ReduceOp, Result, Scope, SymmBuf, World, symm};

use super::{Case, Cp, Failure, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        redirects_untyped_allocations,
        typed_allocations_need_a_scope,
        untyped_allocations_go_to_the_innermost,
        typed_allocations_go_to_the_innermost_of_their_tag,
        an_instance_is_not_its_tag,
        can_be_entered_again,
        is_a_value_of_its_own,
        suspension_gives_ordinary_memory,
        a_scope_inside_a_suspension_counts,
        switched_off_gives_ordinary_memory,
        switched_off_hides_the_scope_around_it,
        one_rank_needs_no_window,
        an_early_return_restores_routing,
        a_panic_restores_routing,
        a_leaked_scope_is_reported,
        the_wrong_order_is_reported_to_both,
        a_wrong_order_among_other_guards_is_reported,
        sites_are_kept,
    ]
}

/// Whether this thread's untyped allocations are redirected now.
fn redirected<B: Backend>() -> Outcome<bool> {
    Ok(Buf::<f32, B>::empty(1)?.is_symmetric())
}

fn redirects_untyped_allocations<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    ensure!(!redirected::<B>()?);
    let scope = tp.scope()?;
    ensure!(redirected::<B>()?);
    ensure!(
        !world.pool().empty::<f32>(1)?.is_symmetric(),
        "the pool's own methods are not redirected"
    );
    scope.close()?;
    ensure!(!redirected::<B>()?);
    Ok(())
}

fn typed_allocations_need_a_scope<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let cp = world.split::<Cp>(0, 0)?;
    ensure_matches!(
        SymmBuf::<f32, Tp, B>::empty(1),
        Err(Error::NoScope { group: "tp" })
    );
    ensure_matches!(tp.empty::<f32>(1), Err(Error::NoScope { group: "tp" }));
    symm!(group = cp, {
        ensure_matches!(
            SymmBuf::<f32, Tp, B>::empty(1),
            Err(Error::NoScope { group: "tp" })
        );
        ensure_matches!(tp.empty::<f32>(1), Err(Error::NoScope { group: "tp" }));
    })?;
    Ok(())
}

fn untyped_allocations_go_to_the_innermost<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let cp = world.split::<Cp>(0, 0)?;
    let outer = tp.scope()?;
    let first: Buf<f32, B> = Buf::zeros(3)?;
    let inner = cp.scope()?;
    let second: Buf<f32, B> = Buf::zeros(3)?;
    inner.close()?;
    let third: Buf<f32, B> = Buf::zeros(3)?;
    outer.close()?;
    let is_of_tp = [first, second, third].map(|buf| buf.downcast::<Tp>().is_ok());
    ensure_eq!(is_of_tp, [true, false, true]);
    Ok(())
}

fn typed_allocations_go_to_the_innermost_of_their_tag<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let cp = world.split::<Cp>(0, 0)?;
    let outer = tp.scope()?;
    let inner = cp.scope()?;
    let mut of_tp: SymmBuf<f32, Tp, B> = SymmBuf::from_slice(&[1.0; 5])?;
    let mut of_cp: SymmBuf<f32, Cp, B> = SymmBuf::from_slice(&[2.0; 5])?;
    let named = tp.zeros::<f32>(5)?;
    inner.close()?;
    outer.close()?;
    tp.all_reduce_in_place(&mut of_tp, ReduceOp::Sum)?;
    cp.all_reduce_in_place(&mut of_cp, ReduceOp::Sum)?;
    let ranks = world.size() as f32;
    ensure_eq!(
        (of_tp.to_vec()?, of_cp.to_vec()?),
        (vec![ranks; 5], vec![2.0 * ranks; 5])
    );
    ensure_eq!(named.to_vec()?, [0.0; 5]);
    Ok(())
}

fn an_instance_is_not_its_tag<B: Backend>(world: &World<B>) -> Outcome {
    let (a, b) = (world.split::<Tp>(0, 0)?, world.split::<Tp>(0, 0)?);
    let outer = a.scope()?;
    let inner = b.scope()?;
    let mut x: SymmBuf<f32, Tp, B> = SymmBuf::zeros(1)?;
    ensure_matches!(a.empty::<f32>(1), Err(Error::WrongScope { .. }));
    let explicit = outer.zeros::<f32>(1)?;
    inner.close()?;
    outer.close()?;
    b.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ensure_matches!(
        b.all_reduce(&explicit, &mut x, ReduceOp::Sum),
        Err(Error::GroupMismatch { .. })
    );
    Ok(())
}

fn can_be_entered_again<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (outer, inner) = symm!(group = tp, {
        let inner = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
        ensure!(
            redirected::<B>()?,
            "the inner end left the outer scope open"
        );
        (tp.from_slice(&[2.0f32])?, inner)
    })?;
    ensure_eq!((outer.to_vec()?, inner.to_vec()?), (vec![2.0], vec![1.0]));
    ensure_eq!(tp.windows(), 1);
    ensure!(!redirected::<B>()?);
    Ok(())
}

fn is_a_value_of_its_own<B: Backend>(world: &World<B>) -> Outcome {
    fn layer<B: Backend>(scope: &Scope<Tp, B>) -> Result<[SymmBuf<i32, Tp, B>; 2]> {
        Ok([scope.zeros(2)?, scope.from_slice(&[7, 8])?])
    }
    let tp = world.split::<Tp>(0, 0)?;
    let scope = tp.scope()?;
    drop(tp); // the scope is enough
    let [zeros, given] = layer(&scope)?;
    ensure_eq!(scope.empty::<u8>(9)?.len(), 9);
    scope.close()?;
    ensure_eq!((zeros.to_vec()?, given.to_vec()?), (vec![0, 0], vec![7, 8]));
    Ok(())
}

fn suspension_gives_ordinary_memory<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let scope = tp.scope()?;
    let suspension = tp.suspend()?;
    // As long as this rank likes: the arena does not see it.
    ensure!(!Buf::<f32, B>::empty(1 + world.rank())?.is_symmetric());
    ensure_matches!(tp.empty::<f32>(1), Err(Error::NoScope { .. }));
    suspension.resume()?;
    ensure!(redirected::<B>()?);
    scope.close()?;
    Ok(())
}

fn a_scope_inside_a_suspension_counts<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let cp = world.split::<Cp>(0, 0)?;
    symm!(group = tp, {
        let _ordinary = tp.suspend()?;
        symm!(group = cp, {
            ensure!(redirected::<B>()?);
            cp.empty::<f32>(1)?;
            ensure_matches!(tp.empty::<f32>(1), Err(Error::NoScope { .. }));
        })?;
        ensure!(!redirected::<B>()?);
    })?;
    Ok(())
}

fn switched_off_gives_ordinary_memory<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let scope = tp.scope_when(false)?;
    ensure!(!redirected::<B>()?);
    let mut x = scope.from_slice(&[1.0f32; 3])?;
    let same_tag: SymmBuf<f32, Tp, B> = SymmBuf::empty(1)?;
    scope.close()?;
    ensure!(!x.is_symmetric() && !same_tag.is_symmetric());
    ensure_eq!(
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?,
        Path::Plain(Reason::Disabled)
    );
    ensure_eq!(x.to_vec()?, [world.size() as f32; 3]);
    ensure_eq!((tp.windows(), world.pool().stats().reserved_bytes), (0, 0));
    Ok(())
}

fn switched_off_hides_the_scope_around_it<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    symm!(group = tp, {
        let quiet = symm!(group = tp, when = false, {
            ensure!(!redirected::<B>()?, "of two scopes the inner one decides");
            tp.empty::<f32>(4)?
        })?;
        ensure!(!quiet.is_symmetric());
        ensure!(tp.empty::<f32>(4)?.is_symmetric());
    })?;
    Ok(())
}

fn one_rank_needs_no_window<B: Backend>(world: &World<B>) -> Outcome {
    let alone = world.split::<Tp>(world.rank(), 0)?;
    let (x, mut y) = symm!(group = alone, {
        (alone.from_slice(&[1.5f32, 2.5])?, alone.zeros::<f32>(2)?)
    })?;
    ensure!(x.is_symmetric());
    ensure_eq!(
        alone.all_reduce(&x, &mut y, ReduceOp::Sum)?,
        Path::Plain(Reason::SingleRank)
    );
    ensure_eq!(y.to_vec()?, [1.5, 2.5]);
    ensure_eq!((alone.size(), alone.windows()), (1, 0));
    Ok(())
}

fn an_early_return_restores_routing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let broken = || -> Outcome {
        symm!(group = tp, {
            tp.empty::<f32>(1)?;
            return Err(Failure::new("the body's own"));
        })?;
        Ok(())
    };
    ensure!(broken().is_err());
    ensure!(!redirected::<B>()?);
    symm!(group = tp, { tp.empty::<f32>(1)? })?;
    Ok(())
}

fn a_panic_restores_routing<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let cp = world.split::<Cp>(0, 0)?;
    let panics = || -> Outcome {
        symm!(group = tp, {
            let _x = tp.empty::<f32>(1)?;
            symm!(group = cp, { resume_unwind(Box::new("of the body")) })?
        })?;
        Ok(())
    };
    ensure!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    ensure!(!redirected::<B>()?);
    // What the panic left pending is registered by the next scope that closes.
    let mut x = symm!(group = tp, { tp.from_slice(&[1i32; 3])? })?;
    tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    ensure_same!(
        x.to_vec()?,
        [world.size() as i32; 3],
        "a sum after the panic"
    );
    ensure_eq!((tp.windows(), cp.windows()), (1, 0));
    Ok(())
}

fn a_leaked_scope_is_reported<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let cp = world.split::<Cp>(0, 0)?;
    let outer = tp.scope()?;
    let inner = cp.scope()?;
    let (closed, leaked) = (outer.site(), inner.site());
    // As by `mem::forget`, but the case must leave nothing behind.
    let inner = ManuallyDrop::new(inner);
    ensure_matches!(
        outer.close(),
        Err(Error::ScopeOrder { closed: at, inner }) if at == closed && inner == leaked
    );
    ensure!(
        !redirected::<B>()?,
        "the outer end took the leaked scope along"
    );
    // Its claim on the group went with it.
    symm!(group = cp, { cp.empty::<f32>(1)? })?;
    drop(ManuallyDrop::into_inner(inner));
    ensure!(!redirected::<B>()?);
    Ok(())
}

fn the_wrong_order_is_reported_to_both<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let around = tp.scope()?;
    let outer = tp.scope()?;
    let inner = tp.scope()?;
    ensure_matches!(outer.close(), Err(Error::ScopeOrder { .. }));
    ensure_matches!(inner.close(), Err(Error::ScopeOrder { .. }));
    ensure!(redirected::<B>()?, "the scope around both is still open");
    around.close()?;
    Ok(())
}

fn a_wrong_order_among_other_guards_is_reported<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let side = world.new_stream()?;
    let suspension = tp.suspend()?;
    let inside = tp.scope()?;
    ensure_matches!(suspension.resume(), Err(Error::ScopeOrder { .. }));
    drop(inside);
    let stream = world.on_stream(&side)?;
    let inside = tp.scope()?;
    ensure_matches!(stream.end(), Err(Error::ScopeOrder { .. }));
    drop(inside);
    Ok(())
}

fn sites_are_kept<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let (scope, line) = (tp.scope()?, line!());
    let site = scope.site();
    ensure_eq!((site.file(), site.line()), (file!(), line));
    scope.close()?;
    Ok(())
}
