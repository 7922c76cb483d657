//! The macros: what they mean for the code in and around them.

use std::io;
use std::sync::Mutex;

use symm_core::{
    Backend, Buf, Element, Error, Group, ReduceOp, Result, Scope, SymmBuf, SymmViewMut, World,
    symm, symmetric,
};

use super::{Case, Cp, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        methods_return_buffers_and_errors,
        functions_keep_their_signatures,
        any_error_type_will_do,
        other_return_types_name_their_policy,
        annotated_functions_nest,
        blocks_may_be_left_early,
        blocks_are_expressions,
        conditions_switch_scopes_off,
        temporaries_of_the_group_end_before_the_body,
        sites_name_the_function,
    ]
}

/// A layer as users write it.
struct Layer<B: Backend> {
    tp: Group<Tp, B>,
    cp: Group<Cp, B>,
    calls: usize,
    kept: Option<SymmBuf<f32, Tp, B>>,
}

trait Forward<B: Backend> {
    fn forward(&self, x: &[f32]) -> Result<SymmBuf<f32, Tp, B>>;
}

impl<B: Backend> Forward<B> for Layer<B> {
    #[symmetric(group = self.tp)]
    fn forward(&self, x: &[f32]) -> Result<SymmBuf<f32, Tp, B>> {
        let mut sum = SymmBuf::from_slice(x)?;
        self.tp.all_reduce_in_place(&mut sum, ReduceOp::Sum)?;
        Ok(sum)
    }
}

impl<B: Backend> Layer<B> {
    fn new(world: &World<B>) -> Result<Self> {
        Ok(Self {
            tp: world.split(0, 0)?,
            cp: world.split(0, 0)?,
            calls: 0,
            kept: None,
        })
    }

    #[symmetric(group = self.tp)]
    fn fails_after(&self, len: usize) -> Result<SymmBuf<f32, Tp, B>> {
        let x = SymmBuf::zeros(len)?;
        x.view(0..len + 1)?;
        Ok(x)
    }

    #[symmetric(group = self.tp)]
    fn keep<T: Into<f32> + Copy>(&mut self, x: &[T]) -> Result<&mut SymmBuf<f32, Tp, B>> {
        self.calls += 1;
        let x: Vec<f32> = x.iter().map(|&x| x.into()).collect();
        Ok(self.kept.insert(SymmBuf::from_slice(&x)?))
    }

    #[symmetric(group = self.tp)]
    fn part(&mut self, len: usize) -> Result<SymmViewMut<'_, f32, Tp, B>> {
        match &mut self.kept {
            Some(kept) => kept.view_mut(0..len),
            None => Err(Error::Config {
                what: "nothing is kept".into(),
            }),
        }
    }

    #[symmetric(group = self.cp)]
    fn both(&self) -> Result<(SymmBuf<f32, Tp, B>, SymmBuf<f32, Cp, B>, Buf<f32, B>)> {
        let inner = self.forward(&[1.0, 2.0])?;
        Ok((inner, SymmBuf::zeros(2)?, Buf::zeros(2)?))
    }

    #[symmetric(group = self.tp, when = large)]
    fn sometimes(&self, large: bool) -> Result<SymmBuf<f32, Tp, B>> {
        SymmBuf::zeros(4)
    }

    #[symmetric(group = self.tp, on_error = panic)]
    fn infallible(&self) -> Option<SymmBuf<f32, Tp, B>> {
        SymmBuf::zeros(3).ok()
    }

    #[symmetric(group = self.tp, on_error = poison)]
    fn unit(&self, out: &mut Vec<bool>) {
        out.extend(Buf::<f32, B>::empty(1).map(|x| x.is_symmetric()));
    }

    #[symmetric(group = self.tp)]
    fn into_parts(self) -> Result<(usize, SymmBuf<i32, Tp, B>)> {
        Ok((self.calls, SymmBuf::zeros(1)?))
    }
}

#[symmetric(group = group)]
fn ones<T: Element + From<u8>, B: Backend>(
    group: &Group<Tp, B>,
    len: usize,
) -> Result<SymmBuf<T, Tp, B>> {
    SymmBuf::from_slice(&vec![T::from(1); len])
}

fn methods_return_buffers_and_errors<B: Backend>(world: &World<B>) -> Outcome {
    let layer = Layer::new(world)?;
    let sum = layer.forward(&[1.0, world.rank() as f32])?;
    let ranks = world.size();
    ensure_eq!(
        sum.to_vec()?,
        [ranks as f32, (ranks * (ranks - 1) / 2) as f32]
    );
    ensure_matches!(
        layer.fails_after(3),
        Err(Error::Range {
            start: 0,
            end: 4,
            len: 3
        })
    );
    ensure!(!Buf::<u8, B>::empty(1)?.is_symmetric());
    Ok(())
}

fn functions_keep_their_signatures<B: Backend>(world: &World<B>) -> Outcome {
    let mut layer = Layer::new(world)?;
    layer.keep(&[1u8, 2, 3])?.fill_zero()?;
    layer.keep(&[4.0f32, 5.0])?;
    layer.part(1)?.copy_from_slice(&[9.0])?;
    ensure_eq!(
        layer.kept.as_ref().map(|kept| kept.to_vec()).transpose()?,
        Some(vec![9.0, 5.0])
    );
    ensure_eq!(ones::<f64, B>(&layer.tp, 2)?.to_vec()?, [1.0, 1.0]);
    let (calls, zero) = layer.into_parts()?;
    ensure_eq!((calls, zero.to_vec()?), (2, vec![0]));
    Ok(())
}

fn any_error_type_will_do<B: Backend>(world: &World<B>) -> Outcome {
    type Fallible<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    #[symmetric(group = tp)]
    fn boxed<B: Backend>(tp: &Group<Tp, B>, text: &str) -> Fallible<i32> {
        SymmBuf::<i32, Tp, B>::empty(1)?;
        Ok(text.parse()?)
    }

    #[symmetric(group = tp)]
    fn of_io<B: Backend>(
        tp: &Group<Tp, B>,
        kind: Option<io::ErrorKind>,
    ) -> io::Result<SymmBuf<u8, Tp, B>> {
        match kind {
            Some(kind) => Err(kind.into()),
            None => Ok(SymmBuf::zeros(1)?),
        }
    }

    let tp = world.split::<Tp>(0, 0)?;
    ensure_matches!(boxed(&tp, "17"), Ok(17));
    ensure_matches!(boxed(&tp, "x"), Err(error) if error.is::<std::num::ParseIntError>());
    ensure!(of_io(&tp, None).is_ok());
    ensure_matches!(
        of_io(&tp, Some(io::ErrorKind::NotFound)),
        Err(error) if error.kind() == io::ErrorKind::NotFound
    );
    Ok(())
}

fn other_return_types_name_their_policy<B: Backend>(world: &World<B>) -> Outcome {
    let layer = Layer::new(world)?;
    ensure_eq!(layer.infallible().map(|x| x.len()), Some(3));
    let mut redirected = Vec::new();
    layer.unit(&mut redirected);
    ensure_eq!(redirected, [true]);
    ensure_eq!(layer.tp.windows(), 1);
    Ok(())
}

fn annotated_functions_nest<B: Backend>(world: &World<B>) -> Outcome {
    let layer = Layer::new(world)?;
    let (of_tp, of_cp, untyped) = layer.both()?;
    ensure_eq!(
        of_tp.to_vec()?,
        [world.size() as f32, 2.0 * world.size() as f32]
    );
    ensure_eq!(of_cp.to_vec()?, [0.0; 2]);
    ensure!(
        untyped.downcast::<Cp>().is_ok(),
        "the inner function's end restored the outer scope"
    );
    ensure_eq!((layer.tp.windows(), layer.cp.windows()), (1, 1));
    Ok(())
}

fn blocks_may_be_left_early<B: Backend>(world: &World<B>) -> Outcome {
    fn first_that_fits<B: Backend>(
        tp: &Group<Tp, B>,
        lens: &[usize],
        most: usize,
    ) -> Result<Option<SymmBuf<u8, Tp, B>>> {
        for &len in lens {
            symm!(group = tp, {
                if len > most {
                    continue;
                }
                return Ok(Some(tp.zeros(len)?));
            })?
        }
        Ok(None)
    }

    let tp = world.split::<Tp>(0, 0)?;
    ensure_eq!(
        first_that_fits(&tp, &[9, 5, 3], 5)?.map(|x| x.len()),
        Some(5)
    );
    ensure!(first_that_fits(&tp, &[9], 5)?.is_none());
    let mut rounds = 0;
    'search: loop {
        rounds += 1;
        symm!(group = tp, {
            if rounds == 3 {
                break 'search;
            }
        })?;
    }
    ensure_eq!(rounds, 3);
    ensure!(
        !Buf::<u8, B>::empty(1)?.is_symmetric(),
        "an early end left a scope open"
    );
    Ok(())
}

fn blocks_are_expressions<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut count = 0;
    let lens: Result<Vec<usize>> = (1..4)
        .map(|len| {
            let x = symm!(group = &tp, {
                count += 1;
                tp.zeros::<f32>(len)?
            })?;
            Ok(x.len())
        })
        .collect();
    ensure_eq!((lens?, count), (vec![1, 2, 3], 3));
    ensure_eq!(
        symm!(group = if count > 2 { &tp } else { unreachable!() }, {
            "no allocation"
        })?,
        "no allocation"
    );
    Ok(())
}

fn conditions_switch_scopes_off<B: Backend>(world: &World<B>) -> Outcome {
    let layer = Layer::new(world)?;
    let symmetric = [true, false].map(|large| layer.sometimes(large).map(|x| x.is_symmetric()));
    ensure_matches!(symmetric, [Ok(true), Ok(false)]);
    let block = symm!(group = layer.cp, when = world.size() == 0, {
        layer.cp.zeros::<f32>(1)?
    })?;
    ensure!(!block.is_symmetric());
    Ok(())
}

fn temporaries_of_the_group_end_before_the_body<B: Backend>(world: &World<B>) -> Outcome {
    struct Shared<B: Backend>(Mutex<Group<Tp, B>>);

    impl<B: Backend> Shared<B> {
        #[symmetric(group = self.0.lock().unwrap())]
        fn is_free(&self) -> Result<bool> {
            Ok(self.0.try_lock().is_ok())
        }
    }

    let shared = Shared(Mutex::new(world.split::<Tp>(0, 0)?));
    ensure!(shared.is_free()?);
    ensure!(symm!(group = shared.0.lock().unwrap(), {
        shared.0.try_lock().is_ok()
    })?);
    Ok(())
}

fn sites_name_the_function<B: Backend>(world: &World<B>) -> Outcome {
    #[symmetric(group = tp)]
    fn leaks_a_guard<B: Backend>(
        tp: &Group<Tp, B>,
        leaked: &mut Option<Scope<Tp, B>>,
    ) -> Result<()> {
        *leaked = Some(tp.scope()?);
        Ok(())
    }

    let tp = world.split::<Tp>(0, 0)?;
    let mut leaked = None;
    match leaks_a_guard(&tp, &mut leaked) {
        Err(Error::ScopeOrder { closed, .. }) => {
            ensure_eq!(closed.file(), file!());
            let function = closed.function().unwrap_or_default();
            ensure!(
                function.ends_with("leaks_a_guard"),
                "the scope was opened in {function:?}"
            );
        }
        other => ensure!(false, "a leaked guard gave {other:?}"),
    }
    Ok(())
}
