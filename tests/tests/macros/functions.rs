//! Every shape of function: its body runs in the scope, and its signature means what it meant.

use symm_core::{Backend, Element, Group, GroupTag, Host, Result, SymmBuf, symmetric};

use crate::{Layer, Tp, alone, redirected};

impl Layer {
    #[symmetric(group = self.tp)]
    fn by_reference(&self) -> Result<bool> {
        Ok(redirected())
    }

    #[symmetric(group = self.tp)]
    fn reborrowed(&mut self) -> Result<&mut bool> {
        self.seen.push(redirected());
        Ok(self.seen.last_mut().unwrap())
    }

    #[symmetric(group = &self.tp, on_error = panic)]
    fn reborrowed_plainly(&mut self, index: usize) -> Option<&mut bool> {
        self.seen.push(redirected());
        self.seen.get_mut(index)
    }

    #[symmetric(group = self.tp, on_error = panic)]
    fn by_value(mut self) -> Vec<bool> {
        self.seen.push(redirected());
        self.seen
    }

    #[symmetric(group = self.tp)]
    fn in_a_box(self: Box<Self>) -> Result<Vec<bool>> {
        Ok(self.by_value())
    }

    #[symmetric(group = self.tp, on_error = poison)]
    fn returns_nothing(&mut self) {
        self.seen.push(redirected());
    }

    #[symmetric(group = self.tp)]
    fn calls_itself(&self, depth: u32) -> Result<bool> {
        if depth > 0 && !self.calls_itself(depth - 1)? {
            return Ok(false);
        }
        Ok(redirected())
    }
}

#[test]
fn methods() -> Result<()> {
    alone(|mut layer| {
        assert!(layer.by_reference()?);
        assert!(*layer.reborrowed()?);
        assert!(*layer.reborrowed_plainly(1).unwrap());
        assert!(layer.reborrowed_plainly(9).is_none());
        layer.returns_nothing();
        assert!(layer.calls_itself(2)?);
        assert!(!redirected());
        assert_eq!(Box::new(layer).in_a_box()?, [true; 5]);
        Ok(())
    })
}

#[symmetric(group = group)]
fn generic<T, G, B, const N: usize>(
    group: &Group<G, B>,
    one: impl Fn() -> T,
) -> Result<SymmBuf<T, G, B>>
where
    T: Element,
    G: GroupTag,
    B: Backend,
{
    SymmBuf::from_slice(&[one(); N])
}

#[symmetric(group = tp, on_error = panic)]
fn any_return<R>(tp: &Group<Tp, Host>, body: impl FnOnce() -> R) -> R {
    body()
}

#[symmetric(group = tp, on_error = panic)]
fn returns_impl_trait<'a>(
    tp: &Group<Tp, Host>,
    items: &'a [u32],
) -> impl Iterator<Item = u32> + use<'a> {
    assert!(redirected());
    items.iter().copied()
}

#[symmetric(group = tp)]
fn returns_it_in_a_result(tp: &Group<Tp, Host>) -> Result<impl Iterator<Item = bool> + use<>> {
    Ok([redirected()].into_iter())
}

#[test]
fn generics_and_impl_trait() -> Result<()> {
    alone(|Layer { tp, cp, .. }| {
        assert_eq!(generic::<_, _, _, 3>(&cp, || 7u8)?.to_vec()?, [7; 3]);
        assert!(any_return(&tp, redirected));
        assert!(returns_impl_trait(&tp, &[4, 5]).eq([4, 5]));
        assert!(returns_it_in_a_result(&tp)?.eq([true]));
        Ok(())
    })
}

trait Module {
    type Output;

    fn tp(&self) -> &Group<Tp, Host>;

    fn forward(&self) -> Self::Output;

    fn parts(&self) -> impl Iterator<Item = bool>
    where
        Self: Sized;

    #[symmetric(group = self.tp())]
    fn forward_twice(&self) -> Result<(Self::Output, Self::Output)> {
        assert!(redirected());
        Ok((self.forward(), self.forward()))
    }
}

impl Module for Layer {
    type Output = Result<bool>;

    fn tp(&self) -> &Group<Tp, Host> {
        &self.tp
    }

    // A `Result`, though it does not say so.
    #[symmetric(group = self.tp)]
    fn forward(&self) -> Self::Output {
        Ok(redirected())
    }

    #[symmetric(group = self.tp, on_error = panic)]
    fn parts(&self) -> impl Iterator<Item = bool> {
        [redirected()].into_iter()
    }
}

#[test]
fn trait_methods() -> Result<()> {
    alone(|layer| {
        let module: &dyn Module<Output = Result<bool>> = &layer;
        assert!(matches!(module.forward_twice()?, (Ok(true), Ok(true))));
        assert!(layer.parts().eq([true]));
        Ok(())
    })
}

/// # Safety
/// `number` can be read.
#[symmetric(group = *tp)]
unsafe fn is_unsafe(tp: &Group<Tp, Host>, number: *const u32) -> Result<u32> {
    // SAFETY: by the caller.
    Ok(unsafe { *number })
}

#[symmetric(group = tp)]
fn takes_patterns(tp: &Group<Tp, Host>, (a, mut b): (u32, u32), [c, ..]: [u32; 3]) -> Result<u32> {
    b += 10;
    Ok(a + b + c)
}

#[symmetric(group = tp, on_error = panic)]
#[must_use]
fn has_attributes(tp: &Group<Tp, Host>) -> bool {
    #![allow(unused_variables)]
    let unused = 1;
    redirected()
}

#[test]
fn other_functions() -> Result<()> {
    alone(|Layer { tp, .. }| {
        // SAFETY: it is a reference.
        assert_eq!(unsafe { is_unsafe(&tp, &5) }?, 5);
        assert_eq!(takes_patterns(&tp, (1, 2), [3, 4, 5])?, 16);
        assert!(has_attributes(&tp));
        #[expect(unused_must_use, reason = "or the attribute was lost")]
        has_attributes(&tp);
        Ok(())
    })
}
