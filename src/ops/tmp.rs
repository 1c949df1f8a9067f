//! TEMPORARY
use crate::{graph::Tensor, host::Host};
impl<'g> Tensor<'g> {
    fn hot(self, k: usize) -> Tensor<'g> {
        let row = self.graph().constant(Host::new([k], (0..k).map(|i| i as f32).collect()));
        self.unsqueeze(-1).eq(row)
    }
    pub fn pick(self, labels: Tensor<'g>) -> Tensor<'g> {
        self.graph().require_classes(labels, self.shape().last());
        (self * labels.hot(self.shape().last())).sum(&[-1], false)
    }
    pub fn log_softmax(self, axis: isize) -> Tensor<'g> {
        self - self.logsumexp(&[axis], true)
    }
    pub fn cross_entropy_rows(self, labels: Tensor<'g>) -> Tensor<'g> {
        -self.log_softmax(-1).pick(labels)
    }
    pub fn gather_rows(self, i: Tensor<'g>) -> Tensor<'g> {
        (i.hot(self.shape().dims()[0]) * self).sum(&[-1], false)
    }
    pub fn argmax(self, _a: isize) -> Tensor<'g> {
        self.max(&[-1], false)
    }
}
