//! Every bound of the system in one place, with its unit in its name and the reason beside it.
//!
//! Relations between bounds are asserted at compile time, so that a changed number that breaks a promise does not build.

// --- leases and time (docs/ARCHITECTURE.md) ---

/// A leader renews its lease row this often.
pub const LEADER_RENEW_MS: u64 = 2_000;
/// A leader's term: after this long without renewal another may take over.
pub const LEADER_TERM_MS: u64 = 8_000;
/// A standby looks at the lease row this often.
pub const LEADER_WATCH_MS: u64 = 1_000;
/// A render node says that it lives this often.
pub const NODE_BEAT_MS: u64 = 2_000;
/// A node without a beat for this long has lost its attempt (INV-5: noticed within 15 s, beat and dispatch included).
pub const NODE_LEASE_MS: u64 = 10_000;
/// A node stops at the next step boundary this long after it *sent* the last beat that was answered.
pub const NODE_SELF_STOP_MS: u64 = 8_000;
/// A node that ends in order waits so long for its leader to hear of it.
pub const NODE_FAREWELL_MS: u64 = 1_000;
/// The leader looks for work that no doorbell announced this often.
pub const SWEEP_MS: u64 = 500;
/// … and for what it did not find so, among all unfinished jobs, so long after the last such look.
pub const THOROUGH_SWEEP_MS: u64 = 10_000;
/// What has had its time (kept answers, join tokens, nodes) is forgotten this often.
pub const FORGET_MS: u64 = 10_000;
/// A change whose row somebody else holds is tried again after this.
pub const HELD_BACK_MS: u64 = 500;
/// The leader compares all that it believes of unfinished jobs with their rows this often.
pub const COMPARE_MS: u64 = 60_000;
/// What seems to differ is read again; who asked is told after so long what was found by then.
pub const COMPARE_VERIFY_MS: u64 = 3_000;
/// Differences that one answer names.
pub const COMPARE_NAMED_MAX: usize = 100;
/// Events are kept by week. The leader makes so many weeks ahead, should there be none for a while, …
pub const EVENT_WEEKS_AHEAD: u32 = 4;
/// … keeps those that are over for so long, and looks this often.
pub const EVENT_WEEKS_KEPT: u32 = 5;
pub const EVENT_WEEKS_LOOK_MS: u64 = 3_600_000;

/// The leader reads the ledger for what does not balance this often, or so much less often that it takes no more than one part in
/// so many of the time …
pub const LEDGER_AUDIT_MS: u64 = 60_000;
pub const LEDGER_AUDIT_SHARE: u32 = 20;
/// … and gives up after this long.
pub const LEDGER_AUDIT_WITHIN_MS: u64 = 30_000;
/// Findings that one audit reads.
pub const LEDGER_FINDINGS_MAX: u32 = 100;

const _: () = assert!(3 * LEADER_RENEW_MS < LEADER_TERM_MS);
const _: () = assert!(LEADER_TERM_MS + LEADER_WATCH_MS < 10_000);
const _: () = assert!(3 * NODE_BEAT_MS < NODE_SELF_STOP_MS && NODE_SELF_STOP_MS < NODE_LEASE_MS);
const _: () = assert!(NODE_LEASE_MS + NODE_BEAT_MS + SWEEP_MS < 15_000);

// --- jobs ---

/// A job is tried at most this often before it fails for good.
pub const JOB_ATTEMPTS_MAX: u32 = 3;
/// A job during which this many nodes died is quarantined: it is more likely the killer than the victim. One node that dies
/// again and again counts once, until the tries are used up.
pub const JOB_NODE_DEATHS_MAX: u32 = 2;
/// So long after its first failure a job may go back to the node where it failed, if no other can run it; doubles with each
/// failure. A full disk or a lost driver does not heal in less.
pub const JOB_RETRY_MS: u64 = 5_000;
/// A node that did not take two jobs in a row gets none for so long, then for twice as long, up to the most: were it asked again at each of
/// its beats, it would use up the assignments of one job after the other.
pub const NODE_NOT_TAKEN_MS: u64 = 5_000;
pub const NODE_NOT_TAKEN_MS_MAX: u64 = 60_000;
/// A job whose files could not be read or signed twice in a row is tried again after so long, then after twice as long, up to the most.
pub const JOB_NOT_READ_MS: u64 = 500;
pub const JOB_NOT_READ_MS_MAX: u64 = 60_000;
/// Queued jobs of all users, unless another number is chosen; over it `overloaded`. A leader holds as many, and a new one reads
/// them in ten seconds (docs/benchmarks.md). Those of one user are bounded by tier, in `state.rs`.
pub const FARM_QUEUED_MAX: u32 = 1_000_000;
/// An api instance counts them this often: what comes in between goes beyond the bound.
pub const FARM_QUEUE_LOOK_MS: u64 = 5_000;
/// Videos of one batch: more than may wait of anybody could never be accepted.
pub const BATCH_VIDEOS_MAX: usize = 200;
/// Statements by which an api instance queues videos at the same time. What comes meanwhile goes into the next one together …
pub const INTAKE_LANES: usize = 2;
/// … as many requests, …
pub const INTAKE_REQUESTS_MAX: usize = 64;
/// … and as many videos: all of them wait for the whole statement, and so does the leader for their users' streams.
pub const INTAKE_VIDEOS_MAX: usize = 256;
/// Requests that wait for it: so many are written in less time than one may wait.
pub const INTAKE_WAITING_MAX: usize = 4_096;
/// A job whose node has it and reports no progress for this long is stopped and tried elsewhere.
pub const JOB_NO_PROGRESS_MS: u64 = 600_000;

/// A run that was told to stop must be out of the engine within this many times the longest step that it has shown, counted
/// from the last boundary it came to: the next boundary may be a little farther than any before …
pub const ENGINE_LEAVE_STEPS: u64 = 3;
/// … but not sooner than this, because steps of a fast device say nothing about one chunk of decoding …
pub const ENGINE_LEAVE_MS_MIN: u64 = 60_000;
/// … and not later: a boundary that is farther than this fails every job for lack of progress. Also the bound of a run that
/// has shown no step: loading a model or a first step may take minutes.
pub const ENGINE_LEAVE_MS_MAX: u64 = JOB_NO_PROGRESS_MS;
/// From the stop itself it has at least this: a run that waited at a boundary needs only to wake up.
pub const ENGINE_LEAVE_GRACE_MS: u64 = 10_000;

const _: () = assert!(BATCH_VIDEOS_MAX <= INTAKE_VIDEOS_MAX);
const _: () = assert!(JOB_NODE_DEATHS_MAX <= JOB_ATTEMPTS_MAX);
const _: () = assert!(ENGINE_LEAVE_GRACE_MS < ENGINE_LEAVE_MS_MIN);
const _: () = assert!(ENGINE_LEAVE_MS_MIN < ENGINE_LEAVE_MS_MAX);
const _: () = assert!(NODE_BEAT_MS < JOB_RETRY_MS);
const _: () =
    assert!(NODE_BEAT_MS < NODE_NOT_TAKEN_MS && NODE_NOT_TAKEN_MS < NODE_NOT_TAKEN_MS_MAX);
const _: () = assert!(JOB_NOT_READ_MS < JOB_NOT_READ_MS_MAX);

// --- who starts when (docs/scheduler.md; the numbers of each tier are in `state.rs`) ---

/// One of so many starts may go to whoever waits longest beyond its tier's start bound: a tenth of the farm keeps the promise
/// in any overload, and the shares keep the rest.
pub const FORCED_START_EVERY: u32 = 10;
/// So many forced starts may follow each other after a quiet time.
pub const FORCED_START_BURST: u32 = 2;
/// A job that a node can start sooner may pass others whose claims are at most so many usual jobs ahead.
pub const LOCALITY_DEFICIT_JOBS: f64 = 8.0;
/// A job may be passed by jobs that start sooner so often …
pub const LOCALITY_SKIPS_MIN: u32 = 2;
/// … or once for so many nodes, if that is more: a node that suits it comes the sooner the more there are.
pub const LOCALITY_NODES_A_SKIP: u32 = 4;
/// At least this part of what was charged for a render stays charged, whatever its node says that it took: one that measures
/// nothing must give nobody turn after turn.
pub const CHARGED_SHARE_MIN: f64 = 0.1;
/// Claims that are compared for one node: the window of the deficit may hold thousands of equal ones.
pub const CANDIDATES_MAX: usize = 64;
/// Of jobs that may not go to every node, or are held for one that has their model, which are looked at for a free one: many may wait in
/// front of others for nodes that work. This and [`CANDIDATES_MAX`] are for each kind of jobs.
pub const CHOOSY_CANDIDATES_MAX: usize = 1_024;
/// What a second of waiting is worth beside a second of loading.
pub const WAITED_SECOND_WORTH_S: f64 = 0.1;
/// A size that ran out of memory is not given to the node for so long …
pub const MEMORY_CEILING_MS: u64 = 3_600_000;
/// … and to none alike once it ran out on so many: one alone may have less memory left than it should.
pub const MEMORY_CEILING_NODES: usize = 2;
/// Where no other nodes could run it, for so long only: the shortage may have passed.
pub const MEMORY_CEILING_ALONE_MS: u64 = 120_000;
/// Sizes that are too large for all nodes, of which an api instance hears: it knows few models.
pub const CEILINGS_MAX: usize = 100;
/// It asks this often; until it hears better, what it heard last counts.
pub const CEILINGS_LOOK_MS: u64 = 2_000;
/// Bounds of those who wait are looked at this often.
pub const CARE_MS: u64 = 1_000;

/// Stopping at a step boundary, storing a checkpoint, loading for the other, and going on later, seconds (estimated).
pub const PREEMPTION_SWAP_S: f64 = 10.0;
/// More than so many swaps must be left of a render that is stopped for another.
pub const PREEMPTION_SWAPS_WORTH: f64 = 2.0;
/// A job is stopped for others at most this often …
pub const JOB_PREEMPTIONS_MAX: u32 = 2;
/// … and not again within this time.
pub const PREEMPTION_GAP_MS: u64 = 20_000;
/// Waiting jobs that room is made for at one look.
pub const PREEMPTIONS_AT_ONCE_MAX: usize = 8;

/// A node whose newest steps, so many at least and over so long, …
pub const SLOW_STEPS_MIN: u32 = 5;
pub const SLOW_MS_MIN: u64 = 20_000;
/// … took more than so many times what the whole render usually takes on its class, in proportion, is slow, …
pub const SLOW_TIMES: f64 = 2.0;
/// … if steps of the same job took so much less before, or somebody else's job is slow there as well.
pub const SLOW_JUMP: f64 = 1.5;
/// For so long after the last slow steps.
pub const SLOW_FORGOTTEN_MS: u64 = 1_800_000;
/// A job leaves slow nodes at most this often.
pub const JOB_MOVES_MAX: u32 = 1;

/// Different jobs that fail in a row on one node before it is suspected.
pub const NODE_SUSPECT_FAILURES: usize = 3;
/// A suspected node is given one job after this pause, which doubles with each failure.
pub const NODE_SUSPECT_MS: u64 = 30_000;
/// Failures within [`NODE_FAULTS_WINDOW_MS`] that were proven to be the node's before it is given nothing.
pub const NODE_FAULTS_MAX: usize = 3;
pub const NODE_FAULTS_WINDOW_MS: u64 = 1_800_000;
/// For so long; then one job tries it, and each failure doubles the time …
pub const NODE_QUARANTINE_MS: u64 = 1_800_000;
/// … up to this.
pub const NODE_QUARANTINE_MS_MAX: u64 = 86_400_000;

/// A job that no node could start for so long fails: its owner has other plans by then.
pub const JOB_QUEUED_MS_MAX: u64 = 7 * 86_400_000;
/// Unfinished jobs in memory that are looked at in one step of a comparison with the rows, so that a step takes milliseconds.
pub const COMPARE_STEP_JOBS: usize = 10_000;
/// An attempt may take so many times what was predicted …
pub const ATTEMPT_PREDICTIONS_MAX: f64 = 10.0;
/// … and at least this.
pub const ATTEMPT_MS_MIN: u64 = 3_600_000;
/// Both are looked at this often …
pub const DEADLINES_LOOK_MS: u64 = 10_000;
/// … and of lanes, and of jobs that others wait for, so many at a time: a million within the hour.
pub const DEADLINES_LOOKED_AT_MAX: usize = 4_096;

const _: () = assert!(PREEMPTION_GAP_MS as f64 > 1_000.0 * PREEMPTION_SWAP_S);
// Steps are timed as they are heard of: what is late by less than a lease makes nobody slow whose steps are as usual.
const _: () = assert!(
    SLOW_MS_MIN as f64 * (SLOW_TIMES - 1.0) >= NODE_LEASE_MS as f64 * SLOW_TIMES
        && SLOW_MS_MIN < SLOW_FORGOTTEN_MS
);
const _: () = assert!(1.0 < SLOW_JUMP && SLOW_JUMP < SLOW_TIMES);
const _: () =
    assert!(NODE_SUSPECT_MS < NODE_QUARANTINE_MS && NODE_QUARANTINE_MS < NODE_QUARANTINE_MS_MAX);
const _: () = assert!(JOB_NO_PROGRESS_MS < ATTEMPT_MS_MIN && ATTEMPT_MS_MIN < JOB_QUEUED_MS_MAX);

/// A job is assigned at most this often, tries and assignments that no node took together: beyond it something is broken.
pub const JOB_ASSIGNMENTS_MAX: u32 = 20;
/// Changes that go into one transaction of the journal: a commit of 256 takes 4 to 13 ms, so the next one is never far.
pub const JOURNAL_BATCH_MAX: usize = 256;
/// Unfinished jobs that a leader reads at once.
pub const RECOVERY_PAGE_JOBS: u32 = 5_000;

const _: () = assert!(JOB_ATTEMPTS_MAX < JOB_ASSIGNMENTS_MAX);

// --- the autoscaler (docs: operations.md "Growing and shrinking"; the targets of each tier are in `state.rs`) ---

/// Looks in a row at which waits must be above their targets before nodes are asked for: three are fifteen seconds.
pub const AUTOSCALE_LOOKS_ABOVE: u32 = 3;
/// After the beginning of a term nodes come back within their lease; until then nothing is decided.
pub const AUTOSCALE_SETTLE_MS: u64 = 30_000;
/// Nodes that were spare for the whole of such a time are given back. No shorter time may be chosen: loading a model takes up to
/// a minute (52 s at p99 of the trace that the scheduler was designed by), and a node that comes back has to.
pub const AUTOSCALE_COOL_DOWN_S_MIN: u64 = 60;
pub const AUTOSCALE_COOL_DOWN_S: u64 = 300;
pub const AUTOSCALE_COOL_DOWN_S_MAX: u64 = 86_400;
/// Nodes by which one decision changes a group at the most, unless another number is chosen.
pub const AUTOSCALE_STEP: u32 = 4;
/// While a group does not have what is wanted, its provider is told again this often.
pub const AUTOSCALE_REMIND_MS: u64 = 60_000;
/// A node whose machine the provider may take is given no job for so long after it was seen last: its link breaks now and then before
/// its machine goes.
pub const AUTOSCALE_GONE_MS: u64 = 60_000;
/// Groups of an autoscaler, and nodes of one of them: as many as the link carries.
pub const AUTOSCALE_GROUPS_MAX: usize = 32;
pub const AUTOSCALE_NODES_MAX: u32 = LINKS_MAX as u32;
/// Names of drained nodes that a provider's program is told at a time.
pub const AUTOSCALE_NAMED_MAX: usize = 64;
/// A provider's program may take so long, seconds.
pub const AUTOSCALE_COMMAND_S: u64 = 60;
pub const AUTOSCALE_COMMAND_S_MAX: u64 = 600;
/// Of what it writes to stdout and stderr each, so much is kept for the log.
pub const AUTOSCALE_OUTPUT_BYTES_MAX: usize = 4 << 10;
/// After a failure it is left alone, at first up to so long …
pub const AUTOSCALE_RETRY_FIRST_MS: u64 = 5_000;
/// … at most up to this.
pub const AUTOSCALE_RETRY_MOST_MS: u64 = 300_000;

const _: () = assert!(NODE_LEASE_MS + 3 * NODE_BEAT_MS < AUTOSCALE_SETTLE_MS);
const _: () = assert!(AUTOSCALE_SETTLE_MS < AUTOSCALE_COOL_DOWN_S_MIN * 1_000);
const _: () = assert!(NODE_LEASE_MS < AUTOSCALE_GONE_MS);

// --- checkpoints ---

/// A run that is being denoised is kept this often, so that a node that is killed loses no more. The leader writes
/// those of one job at most twice as often.
pub const CHECKPOINT_INTERVAL_MS: u64 = 60_000;
/// One checkpoint. Latents of 64 frames of 1920x1088 in 32 bits are 33 MB.
pub const CHECKPOINT_BYTES_MAX: u64 = 128 << 20;
/// What it says of its device and engine.
pub const CHECKPOINT_TEXT_CHARS_MAX: usize = 500;
/// A run that was told to stop waits so long for a store that is down, while its node takes no other job: a checkpoint is worth
/// minutes of rendering, and costs its node no more than that.
pub const CHECKPOINT_PATIENCE_MS: u64 = 60_000;
/// The leader looks for checkpoints that no unfinished job can use this often.
pub const CHECKPOINT_SWEEP_MS: u64 = 600_000;

// --- what a spec may ask for, before a model narrows it ---

pub const FRAMES_MIN: u32 = 1;
/// SVD-XT makes 25; twice and a half of that fits the position embedding and a decode chunk's memory.
pub const FRAMES_MAX: u32 = 64;
pub const STEPS_MIN: u32 = 1;
pub const STEPS_MAX: u32 = 100;
pub const FPS_MIN: u32 = 1;
pub const FPS_MAX: u32 = 60;
pub const SIDE_PX_MIN: u32 = 16;
pub const SIDE_PX_MAX: u32 = 2_048;
pub const PIXELS_MAX: u32 = 1_920 * 1_088;
/// Sizes are multiples of this: three halvings in the VAE.
pub const SIDE_PX_MULTIPLE: u32 = 8;
pub const MOTION_BUCKET_MAX: u32 = 255;
pub const NOISE_AUG_MAX: f32 = 1.0;
pub const GUIDANCE_MAX: f32 = 20.0;
pub const ADAPTERS_MAX: usize = 8;
pub const ADAPTER_WEIGHT_ABS_MAX: f32 = 4.0;
/// A seed must survive JSON readers that keep numbers as doubles.
pub const SEED_MAX: u64 = (1 << 53) - 1;
pub const PROMPT_CHARS_MAX: usize = 2_000;
/// Of a keyframe. Memory and time grow with the square of the area, and Stable Diffusion was trained at 512 and 768 a side.
pub const KEYFRAME_PIXELS_MAX: u32 = 1_024 * 1_024;

const _: () = assert!(
    SIDE_PX_MIN.is_multiple_of(SIDE_PX_MULTIPLE) && SIDE_PX_MAX.is_multiple_of(SIDE_PX_MULTIPLE)
);

// --- files ---

pub const IMAGE_BYTES_MAX: u64 = 32 << 20;
/// The engine's resampling needs two rows and two columns.
pub const IMAGE_SIDE_PX_MIN: u32 = 2;
pub const IMAGE_SIDE_PX_MAX: u32 = 8_192;
pub const IMAGE_PIXELS_MAX: u64 = 40_000_000;
pub const ADAPTER_BYTES_MAX: u64 = 1 << 30;
/// One file of a clip: 64 frames of 1920x1088 at the highest quality are under 100 MiB.
pub const ARTEFACT_BYTES_MAX: u64 = 512 << 20;

// --- the object store, as a node sees it ---

/// An outage of the object store that costs nothing but time.
pub const STORE_OUTAGE_MS: u64 = 30_000;
/// A signed URL to read an object by lives so long; a leaked one is worth nothing after this.
pub const DOWNLOAD_URL_MS: u64 = 300_000;
/// A signed URL to write an object by lives so long. An upload begins within this time; it may take longer.
pub const UPLOAD_URL_MS: u64 = 120_000;
/// A download is tried again for so long while the store is down: less than its URL lives.
pub const FETCH_PATIENCE_MS: u64 = 240_000;
/// An upload keeps to one URL for so long while the store is down: half of what the URL lives.
pub const TARGET_PATIENCE_MS: u64 = 60_000;
/// A finished clip waits so long for a store that is down, with new URLs: it may have cost more than that to render.
pub const CLIP_PATIENCE_MS: u64 = 600_000;

const _: () = assert!(2 * STORE_OUTAGE_MS <= FETCH_PATIENCE_MS);
const _: () = assert!(FETCH_PATIENCE_MS < DOWNLOAD_URL_MS);
const _: () = assert!(2 * TARGET_PATIENCE_MS <= UPLOAD_URL_MS);
const _: () = assert!(STORE_OUTAGE_MS < TARGET_PATIENCE_MS);
const _: () = assert!(STORE_OUTAGE_MS < CHECKPOINT_PATIENCE_MS);
const _: () = assert!(CHECKPOINT_PATIENCE_MS < JOB_NO_PROGRESS_MS);
const _: () = assert!(2 * TARGET_PATIENCE_MS <= CLIP_PATIENCE_MS);

// --- HTTP and live updates ---

/// JSON bodies; files go their own way.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// Progress of one job is pushed at most this often.
pub const PROGRESS_INTERVAL_MS: u64 = 250;
/// Previews of one job come at most this often: each costs an encoding and an upload beside the engine.
pub const PREVIEW_INTERVAL_MS: u64 = 2_000;
/// One preview: a second of a slow phone line.
pub const PREVIEW_BYTES_MAX: u64 = 32 << 10;
/// Who asks for a newer preview waits at most so long.
pub const PREVIEW_WAIT_MS: u64 = 25_000;

// --- the link between machines ---

/// No message is larger (INV-7): bytes go by object store. Checked on the whole encoded frame, before it is sent.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// A peer that sends a larger frame is cut off: room for a message and the cluster's own wrapping, not for many.
pub const LINK_FRAME_BYTES_MAX: u64 = 1 << 20;
/// Unacknowledged envelopes a link carries each way: at most 16 MiB wait for one stalled receiver.
pub const LINK_CREDIT_ENVELOPES: u64 = 64;
/// Links of one process, over all peers: 2,000 nodes and the api instances, with room.
pub const LINKS_MAX: usize = 4_096;
/// Link events that wait for a program before new links are refused: it is stuck, and more links would not help it.
pub const LINK_EVENTS_MAX: usize = 16 * LINKS_MAX;
/// Each side of a link says at least this often that it lives.
pub const LINK_BEAT_MS: u64 = 2_000;
/// A link without a byte read, or with a write blocked, for so long is cut: before the node's lease ends.
pub const LINK_SILENCE_MS: u64 = 8_000;
/// Acknowledgements wait so long for company: 64 envelopes each 5 ms are still 12,800 a second.
pub const LINK_ACK_DELAY_MS: u64 = 5;
/// Connections between TCP accept and link up; above it one that takes long to show its certificate is closed, or else the new one, so that strangers cost no memory.
pub const LINK_HALF_OPEN_MAX: usize = 256;
/// From TCP accept or connect to the end of the TLS handshake.
pub const LINK_TLS_MS: u64 = 5_000;
/// From TLS to the end of the greeting.
pub const LINK_GREETING_MS: u64 = 5_000;
/// A greeting is a name and some numbers.
pub const LINK_GREETING_BYTES_MAX: usize = 4 << 10;
/// From `Welcome` until the peer's gateway is found: cookie and group exchange, 3 to 16 ms when all is well.
pub const LINK_UP_MS: u64 = 5_000;
/// A new link of a peer waits so long until its old one has left the cluster's tables.
pub const LINK_DISPLACED_MS: u64 = 2_000;
/// Redial waits have full jitter, from this ceiling …
pub const REDIAL_FIRST_MS: u64 = 100;
/// … doubling to this one: a healed link is up within 5 s.
pub const REDIAL_MOST_MS: u64 = 5_000;
/// `NotLeader` hints followed in one round of dialling: more is coordinators pointing at each other.
pub const LEADER_HINTS_MAX: usize = 3;
/// Restarts within [`RESTART_WINDOW_MS`]; one more is for whoever watches to mind.
pub const RESTARTS_MAX: usize = 5;
/// A bad moment of the network fits in, a bad configuration does not.
pub const RESTART_WINDOW_MS: u64 = 60_000;
/// The first wait before a restart; doubles each time.
pub const RESTART_FIRST_MS: u64 = 50;

const _: () = assert!(3 * LINK_BEAT_MS < LINK_SILENCE_MS && LINK_SILENCE_MS < NODE_LEASE_MS);
const _: () = assert!(2 * MESSAGE_BYTES_MAX as u64 <= LINK_FRAME_BYTES_MAX);
const _: () = assert!(LINK_DISPLACED_MS < LINK_GREETING_MS);

// --- who belongs to the farm ---

/// A join token lives at most so long: it is typed soon after it was made, and a forgotten one is worth nothing a day later.
pub const JOIN_TOKEN_TTL_S_MAX: u64 = 86_400;
pub const JOIN_TOKEN_TTL_S_MIN: u64 = 60;
/// Nodes that one token admits.
pub const JOIN_TOKEN_USES_MAX: u32 = 1_000;
/// Labels of a node.
pub const LABELS_MAX: usize = 16;
/// Of a label's name, and of its value.
pub const LABEL_CHARS_MAX: usize = 63;
/// What a node says of itself when it joins: shown to operators, and nothing depends on it.
pub const NODE_FACTS_MAX: usize = 16;
/// Of one such fact.
pub const NODE_FACT_CHARS_MAX: usize = 200;
/// A signing request for one key is under 1 kB.
pub const SIGNING_REQUEST_BYTES_MAX: usize = 4 << 10;
/// A node's certificate is valid for so long, and renewed at half of it: a node that was off for longer joins anew.
pub const NODE_CERTIFICATE_S: u64 = 7 * 86_400;
/// The shortest life that a coordinator may be told: a renewal has half of it.
pub const NODE_CERTIFICATE_S_MIN: u64 = 10;
/// Every coordinator looks this often at who was revoked and who drains.
pub const MEMBERS_LOOK_MS: u64 = 1_000;
/// A look that is not answered by then is given up, and the next one made.
pub const MEMBERS_ANSWER_MS: u64 = 2_000;
/// A revoked node leases nothing after this.
pub const REVOKED_WITHIN_MS: u64 = 5_000;
/// Tokens that ended long ago, and nodes that can never come back, which are forgotten at a time: more than come, and no
/// statement takes long. A token takes its certificates with it, one for each use at most.
pub const MEMBERS_FORGOTTEN_MAX: u32 = 100;
/// `flowai drain --grace`: longer than any render.
pub const DRAIN_GRACE_S_MAX: u64 = 86_400;

const _: () = assert!(MEMBERS_LOOK_MS + MEMBERS_ANSWER_MS < REVOKED_WITHIN_MS);
const _: () = assert!(NODE_CERTIFICATE_S_MIN < NODE_CERTIFICATE_S);
