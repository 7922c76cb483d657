//! Buffers: contents, lengths, and what changes their type.

use symm_core::{Backend, Buf, Dyn, Error, Result, SymmBuf, World, bf16, f16, plain, symm};

use super::data::{Number, elements};
use super::ranks::alike;
use super::{Case, Cp, Failure, Outcome, Tp};

pub(super) fn cases<B: Backend>() -> Vec<Case<B>> {
    cases![
        keep_their_contents,
        zeros_are_zeros_in_used_memory,
        the_source_may_change_at_once,
        are_copied_to_each_other,
        lengths_must_agree,
        may_be_empty,
        uneven_ones_take_the_room_of_the_longest,
        too_large_is_an_error,
        untyped_ones_become_typed,
        erased_ones_get_their_tag_back,
        ordinary_ones_are_counted,
        neighbours_do_not_touch,
    ]
}

fn keep_their_contents<B: Backend>(world: &World<B>) -> Outcome {
    fn of_type<T: Number, B: Backend>(world: &World<B>) -> Outcome {
        let tp = world.split::<Tp>(0, 0)?;
        for len in [1, 7, 128, 4099] {
            let data: Vec<T> = elements(len as u64, tp.rank(), len);
            let symmetric = symm!(group = tp, { tp.from_slice(&data)? })?;
            let ordinary: Buf<T, B> = Buf::from_slice(&data)?;
            ensure_same!(symmetric.to_vec()?, data, "symmetric memory");
            ensure_same!(ordinary.to_vec()?, data, "ordinary memory");
            ensure_eq!(
                (symmetric.len(), symmetric.num_bytes()),
                (len, size_of_val(&*data))
            );
        }
        Ok(())
    }
    of_type::<u8, B>(world)?;
    of_type::<f16, B>(world)?;
    of_type::<bf16, B>(world)?;
    of_type::<f32, B>(world)?;
    of_type::<i64, B>(world)
}

fn zeros_are_zeros_in_used_memory<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let used = symm!(group = tp, { tp.from_slice(&[7u32; 1000])? })?;
    let address = used.address();
    drop(used);
    let mut zeros = symm!(group = tp, { tp.zeros::<u32>(1000)? })?;
    ensure_eq!(zeros.address(), address, "the freed block is reused");
    ensure_same!(zeros.to_vec()?, [0; 1000], "zeros");
    zeros.copy_from_slice(&[5; 1000])?;
    zeros.fill_zero()?;
    ensure_same!(zeros.to_vec()?, [0; 1000], "fill_zero");
    Ok(())
}

fn the_source_may_change_at_once<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut data: Vec<u64> = elements(1, tp.rank(), 100_000);
    let expected = data.clone();
    let mut x = symm!(group = tp, { tp.empty::<u64>(data.len())? })?;
    x.copy_from_slice(&data)?;
    data.fill(0);
    drop(data);
    ensure_same!(x.to_vec()?, expected, "what was copied");
    Ok(())
}

fn are_copied_to_each_other<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let data: Vec<f16> = elements(3, tp.rank(), 5000);
    let ordinary = world.pool().from_slice(&data)?;
    let mut x = symm!(group = tp, { tp.zeros::<f16>(5000)? })?;
    x.copy_from(plain(&ordinary))?;
    drop(ordinary); // freed behind the copy
    let (mut low, mut high) = x.split_at_mut(2500)?;
    high.copy_from_slice(&data[..2500])?;
    low.view_mut(0..9)?.fill_zero()?;
    let mut y = world.pool().zeros::<f16>(5000)?;
    y.copy_from(plain(&x))?;
    ensure_matches!(
        y.copy_from(plain(&x).part(0..7)?),
        Err(Error::CopyLength {
            got: 7,
            expected: 5000
        })
    );
    let mut expected = data.clone();
    expected[2500..].copy_from_slice(&data[..2500]);
    expected[..9].fill(f16::ZERO);
    ensure_same!(y.to_vec()?, expected, "a copy of a copy");
    Ok(())
}

fn lengths_must_agree<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = symm!(group = tp, { tp.from_slice(&[1i32; 4])? })?;
    ensure_matches!(
        x.copy_from_slice(&[2; 5]),
        Err(Error::CopyLength {
            got: 5,
            expected: 4
        })
    );
    ensure_matches!(
        x.copy_from_slice(&[2; 3]),
        Err(Error::CopyLength {
            got: 3,
            expected: 4
        })
    );
    ensure_same!(x.to_vec()?, [1; 4], "after refused copies");
    Ok(())
}

fn may_be_empty<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let mut x = symm!(group = tp, { tp.from_slice::<f32>(&[])? })?;
    let ordinary: Buf<f32, B> = Buf::zeros(0)?;
    ensure!(x.is_empty() && ordinary.is_empty() && x.num_bytes() == 0);
    x.fill_zero()?;
    x.copy_from_slice(&[])?;
    ensure_eq!((x.to_vec()?, ordinary.to_vec()?), (vec![], vec![]));
    ensure!(x.view(0..0)?.is_empty());
    Ok(())
}

fn uneven_ones_take_the_room_of_the_longest<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let len = 300 + 200 * tp.rank();
    let (mut uneven, next) = symm!(group = tp, {
        ensure_matches!(
            SymmBuf::<f32, Tp, B>::empty_padded(5, 4),
            Err(Error::Range {
                start: 0,
                end: 5,
                len: 4
            })
        );
        let uneven: SymmBuf<f32, Tp, B> = SymmBuf::empty_padded(len, 300 + 200 * tp.size())?;
        (uneven, tp.from_slice(&[3.0f32; 10])?)
    })?;
    let data = elements(2, tp.rank(), len);
    uneven.copy_from_slice(&data)?;
    ensure_same!(uneven.to_vec()?, data, "the uneven buffer");
    ensure_same!(next.to_vec()?, [3.0; 10], "the one behind it");
    let offset = next.position().map_or(u64::MAX, |position| position.offset);
    alike(world, &tp, &[offset], "offsets behind uneven buffers")
}

fn too_large_is_an_error<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    symm!(group = tp, {
        for len in [usize::MAX, usize::MAX / 8 + 1, isize::MAX as usize / 8 + 1] {
            ensure_matches!(
                tp.empty::<f64>(len),
                Err(Error::TooLarge { elements, bytes_each: 8 }) if elements == len
            );
        }
    })?;
    ensure_matches!(
        Buf::<f64, B>::empty(usize::MAX),
        Err(Error::TooLarge { .. })
    );
    ensure_eq!(world.pool().stats().reserved_bytes, 0);
    Ok(())
}

fn untyped_ones_become_typed<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let redirected: Buf<i32, B> = symm!(group = tp, { Buf::from_slice(&[1, 2, 3])? })?;
    let ordinary: Buf<i32, B> = Buf::from_slice(&[4])?;

    let (redirected, error) = redirected
        .downcast::<Cp>()
        .err()
        .ok_or_else(|| Failure::new("a buffer of tp passed for one of cp"))?;
    ensure_matches!(error, Error::GroupMismatch { .. });
    let typed: SymmBuf<i32, Tp, B> = redirected.downcast().map_err(|(_, error)| error)?;
    ensure_eq!(typed.to_vec()?, [1, 2, 3]);

    let (ordinary, _) = ordinary
        .downcast::<Tp>()
        .err()
        .ok_or_else(|| Failure::new("ordinary memory passed for a group's"))?;
    ensure_eq!(ordinary.to_vec()?, [4]);
    let untyped = typed.into_buf();
    ensure!(
        untyped.downcast::<Dyn>().is_ok(),
        "any group's buffer may be chosen at run time"
    );
    Ok(())
}

fn erased_ones_get_their_tag_back<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let erased: SymmBuf<u8, Dyn, B> = symm!(group = tp, { tp.from_slice(&[5u8; 600])? })?.erase();
    let (erased, error) = erased
        .downcast::<Cp>()
        .err()
        .ok_or_else(|| Failure::new("the wrong tag was accepted"))?;
    ensure_matches!(error, Error::GroupMismatch { .. });
    let back = erased.downcast::<Tp>().map_err(|(_, error)| error)?;
    ensure_same!(back.to_vec()?, [5; 600], "erased and back");
    Ok(())
}

fn ordinary_ones_are_counted<B: Backend>(world: &World<B>) -> Outcome {
    let plain = || world.pool().stats().plain_live_bytes;
    let a: Buf<f64, B> = Buf::empty(100)?;
    let b = world.pool().from_slice(&[1u8; 7])?;
    ensure_eq!(plain(), 807);
    drop(a);
    ensure_eq!(plain(), 7);
    ensure_eq!(b.to_vec()?, [1; 7]);
    ensure_eq!(world.pool().stats().reserved_bytes, 0);
    Ok(())
}

fn neighbours_do_not_touch<B: Backend>(world: &World<B>) -> Outcome {
    let tp = world.split::<Tp>(0, 0)?;
    let lens = [1, 511, 512, 513, 1, 2000];
    let data: Vec<Vec<u8>> = lens
        .iter()
        .enumerate()
        .map(|(i, &len)| elements(i as u64, tp.rank(), len))
        .collect();
    let bufs = symm!(group = tp, {
        data.iter()
            .map(|data| tp.from_slice(data))
            .collect::<Result<Vec<_>>>()?
    })?;
    for (buf, data) in bufs.iter().zip(&data) {
        ensure_same!(buf.to_vec()?, data, "one of several neighbours");
        ensure_eq!(
            buf.address() % 512,
            bufs[0].address() % 512,
            "blocks start at multiples of 512"
        );
    }
    Ok(())
}
