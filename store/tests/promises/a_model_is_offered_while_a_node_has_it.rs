//! Goal: users may choose what some node offered when it registered last, as that node has it, and an older process of a
//! node changes nothing.

use flowai_actors::ids::{Generation, Sha256};
use flowai_actors::messages::{ModelFamily, ModelOffer};
use flowai_actors::spec::SpecLimits;
use flowai_store::{members, models, nodes};

use crate::farm::{Farm, node};

fn offer(model: &str, content: u8) -> ModelOffer {
    ModelOffer {
        id: model.parse().unwrap(),
        sha256: Sha256::from_bytes([content; 32]),
        family: ModelFamily::Svd,
        unet_config: serde_json::json!({}),
        text_encoder_config: None,
        limits: SpecLimits {
            side_multiple: 8,
            frames_max: 25,
        },
    }
}

impl Farm {
    async fn register(
        &self,
        name: &str,
        generation: u32,
        offers: &[ModelOffer],
    ) -> Result<(), Generation> {
        let generation = Generation::new(generation);
        nodes::register(&self.database, &node(name), generation, offers)
            .await
            .unwrap()
    }

    /// The models of which a user may choose.
    async fn offered(&self) -> Vec<ModelOffer> {
        let mut transaction = self.app.begin_as(self.user).await.unwrap();
        let models = models::list(&mut transaction).await.unwrap();
        models.into_iter().map(|model| model.offer).collect()
    }
}

#[tokio::test]
async fn a_model_is_offered_while_a_node_has_it() {
    let farm = Farm::start().await;
    let (big, small) = (offer("big", 1), offer("small", 1));
    farm.register("n1", 1, &[small.clone(), big.clone()])
        .await
        .unwrap();
    farm.register("n2", 1, std::slice::from_ref(&small))
        .await
        .unwrap();
    assert_eq!(farm.offered().await, [big, small.clone()]);
    // The one that nobody else has goes.
    farm.register("n1", 2, &[]).await.unwrap();
    assert_eq!(farm.offered().await, [small]);
    let changed = offer("small", 2);
    farm.register("n2", 1, std::slice::from_ref(&changed))
        .await
        .unwrap();
    assert_eq!(farm.offered().await, [changed]);
    farm.register("n2", 2, &[]).await.unwrap();
    assert_eq!(farm.offered().await, []);
}

#[tokio::test]
async fn what_only_nodes_that_are_gone_for_good_had_is_offered_no_more() {
    let mut farm = Farm::start().await;
    let (old, revoked, kept) = (offer("old", 1), offer("revoked", 2), offer("kept", 3));
    for (name, offered) in [("n1", old), ("n2", revoked), ("n3", kept.clone())] {
        farm.register(name, 1, &[offered]).await.unwrap();
    }
    farm.run(
        "insert into node_member (node_id, joined_at, certificate_expires_at, revoked_at) values
             ('n1', now() - interval '60 days', now() - interval '31 days', null),
             ('n2', now(), now() + interval '1 day', now()),
             ('n3', now(), now() + interval '1 day', null)",
    )
    .await;
    assert_eq!(farm.offered().await.len(), 3);
    let forgotten = members::forget_ended(&farm.database, 9).await;
    assert_eq!(forgotten.unwrap(), 1);
    assert_eq!(farm.offered().await, [kept]);
    let nodes = "select string_agg(id, ' ' order by id) from node";
    assert_eq!(farm.text(nodes).await, "n2 n3");
}

#[tokio::test]
async fn an_older_process_of_a_node_changes_nothing() {
    let farm = Farm::start().await;
    let mine = offer("mine", 1);
    for generation in [3, 3, 4] {
        let offers = std::slice::from_ref(&mine);
        assert_eq!(farm.register("n1", generation, offers).await, Ok(()));
    }
    let older = [offer("mine", 2), offer("other", 1)];
    let held = Err(Generation::new(4));
    assert_eq!(farm.register("n1", 3, &older).await, held);
    assert_eq!(farm.offered().await, std::slice::from_ref(&mine));
    assert_eq!(farm.register("n1", 3, &[]).await, held);
    assert_eq!(farm.offered().await, [mine]);
}
