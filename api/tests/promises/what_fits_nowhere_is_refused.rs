//! Goal: a render for which no kind of node has the memory is refused by name, and a smaller one is not. Method: a leader that has
//! learned what is too large.

use flowai_actors::waiting::{Ceiling, Ceilings, CeilingsQuery};

use crate::farm::{Farm, wish};

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_nowhere_is_refused() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let mut small = wish(&ada.picture().await);
    let mut large = small.clone();
    (small["frames"], large["frames"]) = (2.into(), 4.into());
    let (nothing, submit) = (Ceilings::default(), ada.post("/v1/videos", &small));
    let (CeilingsQuery {}, answer) = tokio::join!(farm.leader.answer(&nothing), submit);
    let accepted = answer.expect(202).json();
    let side = |name: &str| accepted["spec"][name].as_f64().unwrap();
    let ceilings = Ceilings {
        ceilings: vec![Ceiling {
            model: "tiny".parse().unwrap(),
            keyframe_model: None,
            volume: 3.0 * side("width") * side("height"),
        }],
    };
    // What it heard it believes for a moment; then it asks again.
    let (CeilingsQuery {}, ()) = tokio::join!(farm.leader.answer(&ceilings), async {
        loop {
            let answer = ada.post("/v1/videos", &large).await;
            if answer.status != 202 {
                let problem = answer.expect_problem(422, "impossible_job");
                let detail = problem["detail"].as_str().unwrap();
                assert!(detail.contains("4 frames of"), "{detail}");
                assert!(
                    detail.contains("need more memory than any node that offers tiny"),
                    "{detail}"
                );
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    ada.post("/v1/videos", &small).await.expect(202);
    assert_eq!(
        farm.number("select count(*) from job where (spec ->> 'frames')::int = 2")
            .await,
        2
    );
}
