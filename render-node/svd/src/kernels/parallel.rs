use std::ffi::{c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

// The OpenMP runtime that libtorch loads: <https://gcc.gnu.org/onlinedocs/libgomp/>, `GOMP_parallel` as gcc calls it.
#[allow(unsafe_code, reason = "foreign functions")]
#[link(name = "gomp")]
unsafe extern "C" {
    fn GOMP_parallel(
        body: extern "C" fn(*mut c_void),
        data: *mut c_void,
        threads: c_uint,
        flags: c_uint,
    );
    fn omp_in_parallel() -> c_int;
}

/// What the threads of one call share.
struct Shared<'a> {
    next: AtomicUsize,
    count: usize,
    body: &'a (dyn Fn(usize) + Sync),
}

/// Calls `body` once for each of 0..count, on the threads of libtorch's kernels. Whoever is free takes the next one, so a
/// thread that the system puts aside holds up one call and not its share.
pub(super) fn for_each(count: usize, body: impl Fn(usize) + Sync) {
    let threads = usize::try_from(tch::get_num_threads())
        .unwrap_or(1)
        .min(count);
    // SAFETY: reads the state of the calling thread.
    #[allow(unsafe_code, reason = "a foreign function")]
    let is_nested = unsafe { omp_in_parallel() } != 0;
    if threads <= 1 || is_nested {
        (0..count).for_each(body);
        return;
    }
    let shared = Shared {
        next: AtomicUsize::new(0),
        count,
        body: &body,
    };
    let pointer = shared_by_threads(&shared);
    // SAFETY: `work` gets back the pointer given here, and the call returns when all threads have left `work`, so `shared`
    // and what `body` borrows outlive every use.
    #[allow(unsafe_code, reason = "a foreign function")]
    unsafe {
        GOMP_parallel(work, pointer, c_uint::try_from(threads).unwrap_or(1), 0);
    }
}

fn shared_by_threads<T: Sync>(shared: &T) -> *mut c_void {
    std::ptr::from_ref(shared).cast_mut().cast()
}

/// What `body` makes of each of 0..count, in order.
pub(super) fn map<T: Send + Sync>(count: usize, body: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..count).map(|_| OnceLock::new()).collect();
    for_each(count, |index| {
        results[index].get_or_init(|| body(index));
    });
    let results: Vec<T> = results
        .into_iter()
        .filter_map(OnceLock::into_inner)
        .collect();
    debug_assert_eq!(results.len(), count);
    results
}

/// Ends the process on a panic, which cannot cross into the runtime.
extern "C" fn work(shared: *mut c_void) {
    // SAFETY: [`for_each`] passes a `Shared` that lives until every thread has returned from here.
    #[allow(unsafe_code, reason = "what the foreign function was given")]
    let shared = unsafe { &*shared.cast_const().cast::<Shared<'_>>() };
    loop {
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        if index >= shared.count {
            return;
        }
        (shared.body)(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_index_is_visited_once_from_inside_too() {
        for count in [0, 1, 2, 3, 100] {
            let visits: Vec<AtomicUsize> =
                (0..count * count).map(|_| AtomicUsize::new(0)).collect();
            for_each(count, |row| {
                for_each(count, |column| {
                    visits[row * count + column].fetch_add(1, Ordering::Relaxed);
                });
            });
            let mut visits = visits.iter();
            assert!(visits.all(|visit| visit.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn results_come_in_order() {
        let squares = map(1000, |index| index * index);
        assert!(squares.into_iter().eq((0..1000).map(|index| index * index)));
    }
}
