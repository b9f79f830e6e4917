-- The index over the bundles. Built whole by `harness.store.ingest`, never edited; see docs/format.md.

CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);

-- One row a bundle. Several may share a run key; `counted` says which make up the board, `reason` why not.
CREATE TABLE runs (
    bundle_digest VARCHAR PRIMARY KEY,
    run_key VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    protocol VARCHAR NOT NULL,
    protocol_version INTEGER NOT NULL,
    suite VARCHAR NOT NULL,
    encoder VARCHAR NOT NULL,
    identity_digest VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    task_digest VARCHAR NOT NULL,
    dataset_digest VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    chance DOUBLE NOT NULL,
    seed BIGINT NOT NULL,
    engine VARCHAR NOT NULL,
    dtype VARCHAR NOT NULL,
    llm_revision VARCHAR NOT NULL,
    recipes VARCHAR NOT NULL,
    conditions VARCHAR NOT NULL,
    scorer_digest VARCHAR NOT NULL,
    samples_digest VARCHAR NOT NULL,
    tier VARCHAR NOT NULL,
    value DOUBLE,
    num_expected BIGINT NOT NULL,
    num_scored BIGINT NOT NULL,
    num_unparsed BIGINT NOT NULL,
    num_error BIGINT NOT NULL,
    num_missing BIGINT NOT NULL,
    counted BOOLEAN NOT NULL,
    reason VARCHAR NOT NULL,
    receipt VARCHAR NOT NULL,
    environment VARCHAR NOT NULL,
    CHECK (num_expected = num_scored + num_unparsed + num_error + num_missing)
);

-- One row a sample of a bundle: what was said and what it was worth.
CREATE TABLE scores (
    bundle_digest VARCHAR NOT NULL,
    sample_id VARCHAR NOT NULL,
    cluster VARCHAR NOT NULL,
    score DOUBLE,
    status VARCHAR NOT NULL,
    prompt_hash VARCHAR NOT NULL,
    answer VARCHAR NOT NULL
);

CREATE TABLE stage_costs (bundle_digest VARCHAR NOT NULL, stage VARCHAR NOT NULL, seconds DOUBLE NOT NULL);

CREATE TABLE encoders (
    encoder VARCHAR PRIMARY KEY,
    identity_digest VARCHAR NOT NULL,
    title VARCHAR NOT NULL,
    family VARCHAR NOT NULL,
    side VARCHAR NOT NULL,
    floor VARCHAR,
    base VARCHAR NOT NULL,
    architecture VARCHAR NOT NULL,
    license VARCHAR NOT NULL,
    contamination VARCHAR NOT NULL,
    resolution INTEGER NOT NULL,
    submission VARCHAR NOT NULL
);

CREATE TABLE tasks (
    protocol VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    suite VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    chance DOUBLE NOT NULL,
    num_expected BIGINT NOT NULL,
    task_digest VARCHAR NOT NULL,
    dataset_digest VARCHAR NOT NULL,
    scorer_digest VARCHAR NOT NULL,
    conditions VARCHAR NOT NULL,
    seed_ratio DOUBLE NOT NULL,
    seed_df DOUBLE NOT NULL,
    seed_total DOUBLE NOT NULL,
    PRIMARY KEY (protocol, task)
);

-- One row a cell, computed from the samples by harness.stats. Counts are sums over the seeds.
CREATE TABLE metrics (
    protocol VARCHAR NOT NULL,
    encoder VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    value DOUBLE,
    ci_low DOUBLE,
    ci_high DOUBLE,
    se DOUBLE,
    df DOUBLE,
    seeds_unknown BOOLEAN NOT NULL,
    num_seeds BIGINT NOT NULL,
    num_expected BIGINT NOT NULL,
    num_scored BIGINT NOT NULL,
    num_unparsed BIGINT NOT NULL,
    num_error BIGINT NOT NULL,
    num_missing BIGINT NOT NULL,
    tier VARCHAR NOT NULL,
    PRIMARY KEY (protocol, encoder, task)
);

-- Pairs of encoders as results/pairs.toml declares them, measured or not.
CREATE TABLE declared_pairs (
    a VARCHAR NOT NULL,
    b VARCHAR NOT NULL,
    held_equal VARCHAR[] NOT NULL,
    differs VARCHAR[] NOT NULL,
    note VARCHAR NOT NULL,
    PRIMARY KEY (a, b)
);

-- What was tried before an encoder was submitted, as results/attempts.toml declares it.
CREATE TABLE attempts (
    encoder VARCHAR PRIMARY KEY,
    checkpoints BIGINT NOT NULL,
    adapter_seeds BIGINT NOT NULL,
    runs BIGINT NOT NULL,
    declared_by VARCHAR NOT NULL,
    date VARCHAR NOT NULL,
    note VARCHAR NOT NULL
);

-- Rows that were withdrawn, as results/tombstones.toml keeps them.
CREATE TABLE tombstones (
    protocol VARCHAR NOT NULL,
    encoder VARCHAR NOT NULL,
    identity_digest VARCHAR NOT NULL,
    date VARCHAR NOT NULL,
    reason VARCHAR NOT NULL
);

-- One row a pair and task on which both arms are complete: a less b, sample by sample.
CREATE TABLE pair_differences (
    protocol VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    a VARCHAR NOT NULL,
    b VARCHAR NOT NULL,
    difference DOUBLE NOT NULL,
    ci_low DOUBLE NOT NULL,
    ci_high DOUBLE NOT NULL,
    se DOUBLE,
    df DOUBLE,
    p DOUBLE,
    only_a BIGINT NOT NULL,
    only_b BIGINT NOT NULL,
    num_samples BIGINT NOT NULL,
    num_clusters BIGINT NOT NULL,
    detectable DOUBLE,
    PRIMARY KEY (protocol, task, a, b)
);

-- One row a complete encoder and each floor that it is held against on a task: encoder less floor.
CREATE TABLE floor_differences (
    protocol VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    encoder VARCHAR NOT NULL,
    floor VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    difference DOUBLE NOT NULL,
    ci_low DOUBLE NOT NULL,
    ci_high DOUBLE NOT NULL,
    se DOUBLE,
    df DOUBLE,
    seeds_unknown BOOLEAN NOT NULL,
    beaten BOOLEAN NOT NULL,
    PRIMARY KEY (protocol, task, encoder, floor)
);

-- One row a declared aspect of a pair that both stand in the index: what the records themselves say of it.
CREATE TABLE pair_facts (
    a VARCHAR NOT NULL,
    b VARCHAR NOT NULL,
    aspect VARCHAR NOT NULL,
    declared VARCHAR NOT NULL,
    found VARCHAR NOT NULL,
    contradicted BOOLEAN NOT NULL,
    PRIMARY KEY (a, b, aspect)
);

-- One row a task with pairs that cross the sides: classification less contrastive, the pair as the unit.
CREATE TABLE family_effects (
    protocol VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    num_pairs BIGINT NOT NULL,
    num_independent BIGINT NOT NULL,
    difference DOUBLE,
    ci_low DOUBLE,
    ci_high DOUBLE,
    p DOUBLE,
    without_one_low DOUBLE,
    without_one_high DOUBLE,
    sentence VARCHAR NOT NULL,
    PRIMARY KEY (protocol, task)
);

-- One row a ranked encoder and task: the places that the data leave open, over all pairs at once.
CREATE TABLE ranks (
    protocol VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    encoder VARCHAR NOT NULL,
    rank_low BIGINT NOT NULL,
    rank_high BIGINT NOT NULL,
    tie_groups BIGINT[] NOT NULL,
    num_ranked BIGINT NOT NULL,
    PRIMARY KEY (protocol, task, encoder)
);

-- One row a probe and a task that a language model answers: how far the one's order is the other's.
CREATE TABLE rank_agreement (
    protocol VARCHAR NOT NULL,
    probe VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    num_encoders BIGINT NOT NULL,
    correlation DOUBLE,
    ci_low DOUBLE,
    ci_high DOUBLE,
    PRIMARY KEY (protocol, probe, task)
);

-- One row two encoders whose order is proven one way by the probe and the other way by the task.
CREATE TABLE rank_flips (
    protocol VARCHAR NOT NULL,
    probe VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    by_probe VARCHAR NOT NULL,
    by_task VARCHAR NOT NULL
);

CREATE VIEW leaderboard AS
SELECT m.protocol, m.encoder, e.family, e.side, m.task, m.split, m.metric, m.value, m.ci_low, m.ci_high,
    m.num_seeds, m.num_expected, m.num_scored, m.num_unparsed, m.num_error, m.num_missing, m.tier
FROM metrics AS m JOIN encoders AS e USING (encoder)
ORDER BY m.protocol, m.task, m.tier = 'self-reported', m.value DESC NULLS LAST, m.encoder;

CREATE VIEW seeds AS
SELECT protocol, encoder, task, split, metric, seed, value, num_expected, num_scored, num_unparsed, num_error,
    num_missing, bundle_digest
FROM runs WHERE counted ORDER BY protocol, task, encoder, seed;

CREATE VIEW samples AS
SELECT r.protocol, r.encoder, r.task, r.seed, s.sample_id, s.cluster, s.score, s.status, s.answer, s.prompt_hash
FROM scores AS s JOIN runs AS r USING (bundle_digest) WHERE r.counted;

CREATE VIEW costs AS
SELECT r.protocol, r.encoder, r.task, r.seed, c.stage, c.seconds
FROM stage_costs AS c JOIN runs AS r USING (bundle_digest) WHERE r.counted
ORDER BY r.protocol, r.task, r.encoder, r.seed, c.stage;

CREATE VIEW receipts AS
SELECT protocol, encoder, task, seed, bundle_digest, run_key, path, tier, receipt
FROM runs WHERE counted ORDER BY protocol, task, encoder, seed;

CREATE VIEW pairs AS
SELECT d.*, p.held_equal, p.differs, p.note,
    EXISTS (FROM pair_facts AS f WHERE f.a = d.a AND f.b = d.b AND f.contradicted) AS contradicted
FROM pair_differences AS d JOIN declared_pairs AS p USING (a, b)
ORDER BY d.protocol, d.task, d.a, d.b;

-- The samples that one arm of a pair has right and the other has not. Scores are added in the order of the
-- seeds: a sum of fractions depends on its order, and "right" is a threshold.
CREATE VIEW flips AS
WITH means AS (
    SELECT protocol, task, encoder, sample_id, min(cluster) AS cluster,
        list_sum(list(score ORDER BY seed)) / count(*) AS score
    FROM samples GROUP BY protocol, task, encoder, sample_id
)
SELECT d.protocol, d.task, d.a, d.b, x.sample_id, x.cluster, x.score AS score_a, y.score AS score_b,
    CASE WHEN x.score >= 0.5 THEN 'a' ELSE 'b' END AS right_side
FROM pair_differences AS d
JOIN means AS x ON (x.protocol, x.task, x.encoder) = (d.protocol, d.task, d.a)
JOIN means AS y ON (y.protocol, y.task, y.encoder, y.sample_id) = (d.protocol, d.task, d.b, x.sample_id)
WHERE (x.score >= 0.5) <> (y.score >= 0.5)
ORDER BY d.protocol, d.task, d.a, d.b, x.sample_id;
