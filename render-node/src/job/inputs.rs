//! What a job needs: checked against this node before a byte is fetched, then fetched.

use std::sync::Arc;

use flowai_actors::ids::{ModelId, Sha256};
use flowai_actors::messages::{Assign, FirstFrameSource, ModelFamily, Source};
use flowai_actors::spec::{AdapterUse, FirstFrame, InvalidField, KeyframeSpec};
use futures::future::try_join;

use super::{NotRendered, Workshop, not_fetched};
use crate::engine::{FirstFrameInputs, StageInputs};
use crate::failure::{FailureCode, JobFailure};
use crate::models::LocalModel;
use crate::pulse::Pulse;

/// An order that this node can render.
pub(super) struct Plan<'a> {
    clip: StagePlan<'a>,
    first_frame: FirstFramePlan<'a>,
}

struct StagePlan<'a> {
    model: &'a Arc<LocalModel>,
    adapters: &'a [AdapterUse],
    /// In the order of `adapters`.
    sources: &'a [Source],
    /// The list's path in the spec.
    field: &'static str,
}

enum FirstFramePlan<'a> {
    Image(&'a Source),
    Keyframe(&'a KeyframeSpec, StagePlan<'a>),
}

/// What the engine is given, on this machine's disk.
pub(super) struct Inputs {
    pub(super) clip: StageInputs,
    pub(super) first_frame: FirstFrameInputs,
}

impl Inputs {
    /// In the order in which adapters are fused.
    pub(super) fn stages(&self) -> impl Iterator<Item = &StageInputs> {
        let keyframe = match &self.first_frame {
            FirstFrameInputs::Image(_) => None,
            FirstFrameInputs::Keyframe { stage, .. } => Some(stage),
        };
        std::iter::once(&self.clip).chain(keyframe)
    }
}

impl Workshop {
    /// Whether the order can be rendered at all.
    pub(super) fn plan<'a>(&'a self, assign: &'a Assign) -> Result<Plan<'a>, NotRendered> {
        let spec = &assign.spec;
        let clip = StagePlan {
            model: self.model(&spec.model, assign.model_sha256, ModelFamily::Svd)?,
            adapters: &spec.adapters,
            sources: &assign.adapters,
            field: "adapters",
        };
        spec.validate(&clip.model.offer.limits).map_err(|fields| {
            let fields: Vec<String> = fields.iter().map(InvalidField::to_string).collect();
            invalid(fields.join("; "))
        })?;
        let first_frame = match (&spec.first_frame, &assign.first_frame) {
            (FirstFrame::Image(sha256), FirstFrameSource::Image(source))
                if source.sha256 == *sha256 =>
            {
                FirstFramePlan::Image(source)
            }
            (
                FirstFrame::Keyframe(keyframe),
                FirstFrameSource::Keyframe {
                    model_sha256,
                    adapters,
                },
            ) => {
                let stage = StagePlan {
                    model: self.model(&keyframe.model, *model_sha256, ModelFamily::Sd)?,
                    adapters: &keyframe.adapters,
                    sources: adapters,
                    field: "keyframe.adapters",
                };
                stage.check()?;
                FirstFramePlan::Keyframe(keyframe, stage)
            }
            (FirstFrame::Image(_) | FirstFrame::Keyframe(_), _) => {
                return Err(not_of_the_spec("first frame"));
            }
        };
        clip.check()?;
        Ok(Plan { clip, first_frame })
    }

    fn model(
        &self,
        id: &ModelId,
        sha256: Sha256,
        family: ModelFamily,
    ) -> Result<&Arc<LocalModel>, NotRendered> {
        let unusable = |detail: &str| {
            let detail = format!("model {id} {detail}");
            NotRendered::Failed(JobFailure::new(FailureCode::ModelUnusable, detail))
        };
        let model = self.models.get(id);
        let model = model.ok_or_else(|| unusable("is not on this node"))?;
        if model.offer.sha256 != sha256 {
            return Err(unusable("has other files on this node"));
        }
        if model.offer.family != family {
            let (is, wanted) = (model.offer.family.name(), family.name());
            return Err(invalid(format!(
                "model {id} is of family {is}; name one of family {wanted}"
            )));
        }
        Ok(model)
    }

    pub(super) async fn fetch(
        &self,
        plan: &Plan<'_>,
        pulse: &Pulse,
    ) -> Result<Inputs, NotRendered> {
        let first_frame = async {
            Ok(match &plan.first_frame {
                FirstFramePlan::Image(source) => {
                    let held = self.pictures.hold(source, pulse).await;
                    FirstFrameInputs::Image(held.map_err(|error| not_fetched("image", &error))?)
                }
                FirstFramePlan::Keyframe(spec, stage) => FirstFrameInputs::Keyframe {
                    spec: Box::new((*spec).clone()),
                    stage: self.fetch_stage(stage, pulse).await?,
                },
            })
        };
        let (clip, first_frame) =
            try_join(self.fetch_stage(&plan.clip, pulse), first_frame).await?;
        Ok(Inputs { clip, first_frame })
    }

    async fn fetch_stage(
        &self,
        plan: &StagePlan<'_>,
        pulse: &Pulse,
    ) -> Result<StageInputs, NotRendered> {
        let held = self.fetch_adapters(plan.field, plan.sources, pulse).await?;
        let weights = plan.adapters.iter().map(|asked| asked.weight);
        Ok(StageInputs {
            model: Arc::clone(plan.model),
            adapters: held.into_iter().zip(weights).collect(),
        })
    }
}

impl StagePlan<'_> {
    fn check(&self) -> Result<(), NotRendered> {
        let named = self.adapters.iter().map(|adapter| adapter.sha256);
        match self.sources.iter().map(|source| source.sha256).eq(named) {
            true => Ok(()),
            false => Err(not_of_the_spec(self.field)),
        }
    }
}

fn not_of_the_spec(what: &str) -> NotRendered {
    invalid(format!("sources of {what} are not those of the spec"))
}

fn invalid(detail: String) -> NotRendered {
    NotRendered::Failed(JobFailure::new(FailureCode::InvalidSpec, detail))
}
