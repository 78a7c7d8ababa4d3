//! For tests of the kernels.

use flowai_model::synthetic;
use tch::Tensor;

/// Of a standard normal distribution.
pub(super) fn values(name: &str, shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    // A column has a fan-in of 1, so its values are not scaled.
    let values = synthetic::tensor(name, &[count as usize, 1], 0);
    Tensor::from_slice(&values).view(shape)
}

/// What `make` makes with one, two and three threads.
pub(super) fn with_threads<T>(make: impl Fn() -> T) -> [T; 3] {
    /// libtorch has one number of threads for the process.
    struct Restore(i32);
    impl Drop for Restore {
        fn drop(&mut self) {
            tch::set_num_threads(self.0);
        }
    }
    let _restore = Restore(tch::get_num_threads());
    [1, 2, 3].map(|threads| {
        tch::set_num_threads(threads);
        make()
    })
}
