//! How a picture moved between two frames, measured from their pixels.

/// A grey picture, 0..1, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Grey {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pixels: Vec<f32>,
}

/// A similarity about the middle of the picture, as one sees it happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Motion {
    /// Size after it, of the size before.
    pub(crate) growth: f64,
    pub(crate) clockwise_deg: f64,
    pub(crate) left_px: f64,
    pub(crate) up_px: f64,
}

/// Part of each side that is not compared: what came into view there was never in the first frame.
const MARGIN: f64 = 0.125;
/// The first stride of the search (growth, degrees, pixels, pixels), larger than what frames move, and how often it is halved.
const STRIDES: [f64; 4] = [0.06, 2.0, 2.0, 2.0];
const HALVINGS: usize = 6;

impl Grey {
    /// From `rgb`, three planes of `height` x `width`.
    pub(crate) fn from_planes(rgb: &[f32], height: usize, width: usize) -> Self {
        let area = height * width;
        assert_eq!(rgb.len(), 3 * area);
        let pixels = (0..area)
            .map(|i| (rgb[i] + rgb[area + i] + rgb[2 * area + i]) / 3.0)
            .collect();
        Self {
            width,
            height,
            pixels,
        }
    }

    /// Bilinear; what lies outside is the nearest pixel.
    fn at(&self, x: f64, y: f64) -> f64 {
        let x = x.clamp(0.0, (self.width - 1) as f64);
        let y = y.clamp(0.0, (self.height - 1) as f64);
        let (left, top) = (x as usize, y as usize);
        let (right, below) = (
            (left + 1).min(self.width - 1),
            (top + 1).min(self.height - 1),
        );
        let (along, down) = (x - left as f64, y - top as f64);
        let pixel = |x: usize, y: usize| f64::from(self.pixels[y * self.width + x]);
        let upper = pixel(left, top) * (1.0 - along) + pixel(right, top) * along;
        let lower = pixel(left, below) * (1.0 - along) + pixel(right, below) * along;
        upper * (1.0 - down) + lower * down
    }

    /// The picture after a motion.
    pub(crate) fn moved(&self, motion: Motion) -> Self {
        let source = motion.source(self.width, self.height);
        let pixels = (0..self.height)
            .flat_map(|y| (0..self.width).map(move |x| (x, y)))
            .map(|(x, y)| {
                let (x, y) = source(x as f64, y as f64);
                self.at(x, y) as f32
            })
            .collect();
        Self {
            pixels,
            ..self.clone()
        }
    }

    /// Mean square difference of `later` to this picture after a motion, of the part that is compared.
    fn error(&self, later: &Self, motion: Motion) -> f64 {
        let source = motion.source(self.width, self.height);
        let (beside, above) = (
            (self.width as f64 * MARGIN) as usize,
            (self.height as f64 * MARGIN) as usize,
        );
        let mut sum = 0.0;
        let mut count = 0;
        for y in above..self.height - above {
            for x in beside..self.width - beside {
                let (from_x, from_y) = source(x as f64, y as f64);
                let difference =
                    self.at(from_x, from_y) - f64::from(later.pixels[y * self.width + x]);
                sum += difference * difference;
                count += 1;
            }
        }
        sum / f64::from(count)
    }
}

impl Motion {
    pub(crate) const NONE: Self = Self {
        growth: 1.0,
        clockwise_deg: 0.0,
        left_px: 0.0,
        up_px: 0.0,
    };

    fn numbers(self) -> [f64; 4] {
        [self.growth, self.clockwise_deg, self.left_px, self.up_px]
    }

    fn from_numbers([growth, clockwise_deg, left_px, up_px]: [f64; 4]) -> Self {
        Self {
            growth,
            clockwise_deg,
            left_px,
            up_px,
        }
    }

    /// Where a pixel of the later picture comes from.
    fn source(self, width: usize, height: usize) -> impl Fn(f64, f64) -> (f64, f64) {
        let (middle_x, middle_y) = ((width - 1) as f64 / 2.0, (height - 1) as f64 / 2.0);
        let (sine, cosine) = self.clockwise_deg.to_radians().sin_cos();
        move |x, y| {
            let (x, y) = ((x - middle_x) / self.growth, (y - middle_y) / self.growth);
            (
                middle_x + cosine * x + sine * y + self.left_px,
                middle_y - sine * x + cosine * y + self.up_px,
            )
        }
    }
}

/// The motion from the first frame to the last. Each frame's is searched from the one before: it moved a little.
pub(crate) fn follow(frames: &[Grey]) -> Motion {
    frames[1..].iter().fold(Motion::NONE, |motion, frame| {
        nearest(&frames[0], frame, motion)
    })
}

/// Pattern search: along each number in turn, with shorter and shorter strides.
fn nearest(first: &Grey, later: &Grey, start: Motion) -> Motion {
    let mut best = start;
    let mut least = first.error(later, best);
    for halving in 0..HALVINGS {
        let mut is_moving = true;
        while is_moving {
            is_moving = false;
            for (number, stride) in STRIDES.iter().enumerate() {
                for direction in [-1.0, 1.0] {
                    let mut numbers = best.numbers();
                    numbers[number] += direction * stride / f64::from(1 << halving);
                    let tried = Motion::from_numbers(numbers);
                    let error = first.error(later, tried);
                    if error < least {
                        (best, least, is_moving) = (tried, error, true);
                    }
                }
            }
        }
    }
    best
}
