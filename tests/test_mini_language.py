"""Questions, captions and descriptions say what is in the scene, and the tokenizer takes all of it."""

import math
import random
import re
import string

import pytest

from harness.mini import captions, language
from harness.mini.captions import INDEX, VOCABULARY, facts_of, position_words, spell, write_caption
from harness.mini.clips import MOVES, NUM_FRAMES, SHOWN_FRAMES, SPEED, sample_clips
from harness.mini.language import CELLS, STILL_KINDS, ask, ask_clip, ask_place, describe, describe_clip
from harness.mini.tokenizer import END, IMAGE, PAD, START, build_tokenizer, write_tokenizer
from harness.mini.world import COLORS, PATTERNS, SHAPES, SIDE, SIZES, WORDS, Scene, sample_scenes
from harness.prompts import BOX_REQUEST, LETTERS, SHORT_ANSWER


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes("train", 300, seed=21)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def asked(scenes, kind, seed=0):
    rng = random.Random(seed)
    pairs = [(scene, ask(scene, kind, rng)) for scene in scenes]
    return [(scene, question) for scene, question in pairs if question is not None]


def only(items):
    """The one item; several would make the question ambiguous."""
    items = list(items)
    assert len(items) == 1, items
    return items[0]


def derive(scene, kind, text):
    """The answer from the bare question and the scene alone, written independently of `ask`."""
    words = text.rstrip("?").split()
    if kind == "count":
        return str(len(scene.things))
    if kind == "sign":
        return scene.sign.word
    if kind == "color":
        return only(t.color for t in scene.things if t.shape == words[-1])
    if kind == "shape":
        return only(t.shape for t in scene.things if t.color == words[-2])
    color, shape = words[-2:]
    matches = [t for t in scene.things if (t.color, t.shape) == (color, shape)]
    if kind == "exist":
        return "yes" if matches else "no"
    if kind == "pattern":
        return only(matches).pattern
    left, top, right, bottom = language.box_of(only(matches))
    return "[" + ", ".join(f"{round(v * 32) / 32:.2f}" for v in (left, top, right, bottom)) + "]"


# ---- questions


@pytest.mark.parametrize("kind", STILL_KINDS)
def test_every_answer_follows_from_the_question_and_the_scene(scenes, kind):
    pairs = asked(scenes, kind)
    assert len(pairs) > 100
    for scene, question in pairs:
        assert question.kind == kind
        assert question.answer == derive(scene, kind, question.text), (scene, question)


@pytest.mark.parametrize("kind", STILL_KINDS)
def test_the_prompt_is_the_text_in_lmms_eval_s_frame(scenes, kind):
    for _, question in asked(scenes, kind):
        if kind == "rec":
            assert question.prompt == BOX_REQUEST + question.text
        elif kind == "sign":
            assert question.prompt == question.text[0].upper() + question.text[1:] + SHORT_ANSWER
        else:
            assert question.prompt == question.text + SHORT_ANSWER


def test_a_question_is_refused_exactly_where_it_is_ambiguous(scenes):
    for scene in scenes:
        rng = random.Random(1)
        shapes = [t.shape for t in scene.things]
        colors = [t.color for t in scene.things]
        assert (ask(scene, "color", rng) is None) == all(shapes.count(s) > 1 for s in shapes)
        assert (ask(scene, "shape", rng) is None) == all(colors.count(c) > 1 for c in colors)
        assert (ask(scene, "sign", rng) is None) == (scene.sign is None)


def test_questions_are_reproducible(scenes):
    for kind in STILL_KINDS:
        assert asked(scenes[:40], kind, seed=4) == asked(scenes[:40], kind, seed=4)


def test_yes_and_no_are_near_half(scenes):
    answers = [q.answer for _, q in asked(sample_scenes("test", 1500, seed=102), "exist")]
    assert set(answers) == {"yes", "no"}
    assert abs(answers.count("yes") / 1500 - 0.5) < 4 * math.sqrt(0.25 / 1500)


def test_half_of_the_absent_objects_look_like_a_present_one(scenes):
    near = 0
    absent = [(s, q) for s, q in asked(sample_scenes("test", 800, seed=102), "exist") if q.answer == "no"]
    for scene, question in absent:
        color, shape = question.text.rstrip("?").split()[-2:]
        near += any(t.color == color or t.shape == shape for t in scene.things)
    assert near > 0.5 * len(absent)


def test_answers_vary_so_that_a_constant_guess_is_weak():
    scenes = sample_scenes("test", 1000, seed=102)
    for kind, most in (("color", 0.25), ("shape", 0.25), ("pattern", 0.35), ("count", 0.6), ("sign", 0.1)):
        answers = [q.answer for _, q in asked(scenes, kind)]
        assert max(map(answers.count, set(answers))) < most * len(answers), kind


def test_spoken_boxes_stay_near_the_true_ones(scenes):
    for _, question in asked(scenes, "rec"):
        spoken = [float(v) for v in question.answer.strip("[]").split(", ")]
        assert all(abs(a - b) <= 1 / 64 + 0.005 + 1e-9 for a, b in zip(spoken, question.box, strict=True))
        assert 0 <= spoken[0] < spoken[2] <= 1 and 0 <= spoken[1] < spoken[3] <= 1


# ---- clips


def test_a_clip_s_answer_is_how_its_object_really_moves():
    rng = random.Random(2)
    for clip in sample_clips("train", 200, seed=3):
        choice = ask_clip(clip, rng)
        mover = only(
            m
            for m in clip.movers
            if choice.text == f"which way does the {m.thing.color} {m.thing.shape} move?"
        )
        a, b = mover.at(1), mover.at(2)
        step = ((b.x - a.x + 32) % SIDE - 32, (b.y - a.y + 32) % SIDE - 32)
        seen = {
            (SPEED, 0): "right",
            (-SPEED, 0): "left",
            (0, SPEED): "down",
            (0, -SPEED): "up",
            (0, 0): "nowhere",
        }
        assert choice.options[choice.answer] == seen[step]
        assert choice.options == tuple(MOVES)
        lines = choice.prompt.split("\n")
        assert lines[0] == choice.text
        assert lines[1:] == [f"{letter}. {o}" for letter, o in zip(LETTERS, choice.options, strict=True)]


def test_either_object_of_a_clip_can_be_asked_for():
    clip = sample_clips("train", 1, seed=3)[0]
    texts = [ask_clip(clip, random.Random(0), which).text for which in (0, 1)]
    assert [m.thing.shape in t for m, t in zip(clip.movers, texts, strict=True)] == [True, True]
    assert {ask_clip(clip, random.Random(i)).text for i in range(20)} == set(texts)


def test_a_clip_description_names_both_ways_and_their_cells():
    for clip in sample_clips("train", 50, seed=3):
        lines = describe_clip(clip, SHOWN_FRAMES).split("\n")
        assert lines == sorted(lines)
        assert {tuple(line.split()) for line in lines} == {
            (m.thing.color, m.thing.shape, "".join(cell_at(m, f) for f in SHOWN_FRAMES), m.move)
            for m in clip.movers
        }


def cell_at(mover, frame):
    """Column a-d and row 1-4 of the 16 px cell that holds the centre."""
    thing = mover.at(frame)
    return f"{'abcd'[thing.x // 16]}{thing.y // 16 + 1}"


def test_a_place_is_the_cell_of_the_frame_that_the_question_names():
    rng = random.Random(0)
    for clip in sample_clips("train", 100, seed=3):
        question = ask_place(clip, rng, SHOWN_FRAMES)
        mover = next(m for m in clip.movers if f"{m.thing.color} {m.thing.shape}" in question.prompt)
        frame = SHOWN_FRAMES[int(re.search(r"in f(\d)\?$", question.prompt)[1]) - 1]
        assert question.answer == cell_at(mover, frame)


# ---- captions


def read_caption(words):
    """What a caption's words state: (size, pattern, color, shape) or a sign's word, with position words."""
    mentions, looks = [], []
    for word in words:
        if word in captions.COLUMNS or word in captions.ROWS:
            mentions[-1][1].append(word)
        elif word == "sign":
            mentions.append(("", []))
        elif "_" in word:
            mentions[-1] = (mentions[-1][0] + word.strip("_"), mentions[-1][1])
        else:
            looks.append(word)
            if word in SHAPES:
                mentions.append((tuple(looks), []))
                looks = []
    return mentions


def states(item, said):
    """Whether what was said is true of an item."""
    if isinstance(said, str):
        return getattr(item, "word", None) == said
    return hasattr(item, "shape") and set(said) <= {item.size, item.pattern, item.color, item.shape}


def test_every_stated_fact_is_a_fact_of_its_scene(scenes):
    table = facts_of(scenes)
    rng = random.Random(5)
    for row, scene in zip(table, scenes, strict=True):
        caption = write_caption(scene, rng)
        assert caption.facts and row[caption.facts].all()


def test_the_words_say_the_same_as_the_facts_and_are_true(scenes):
    rng = random.Random(6)
    for scene in scenes:
        caption = write_caption(scene, rng)
        mentions = read_caption([VOCABULARY[i] for i in caption.words])
        assert len(mentions) == len(caption.facts)
        items = [*scene.things, *([scene.sign] if scene.sign else [])]
        for said, place in mentions:
            assert any(states(i, said) and place in ([], [*position_words(i)]) for i in items), (scene, said)


def test_facts_are_as_many_as_the_items_allow(scenes):
    for row, scene in zip(facts_of(scenes), scenes, strict=True):
        assert row.sum() <= 8 * len(scene.things) + (scene.sign is not None)
        assert row.sum() >= 8 + (scene.sign is not None)
    assert facts_of(scenes).shape == (300, captions.NUM_FACTS) and captions.NUM_FACTS == 3 * 5 * 7 * 6 + 256


def test_another_scene_s_caption_is_rarely_true(scenes):
    rng = random.Random(7)
    stated = [write_caption(s, rng).facts for s in scenes]
    table = facts_of(scenes)
    shares = [table[:, facts].all(1).mean() for facts in stated]
    assert sum(shares) / len(shares) < 0.15


def test_all_attributes_are_mentioned_equally_often():
    rng = random.Random(8)
    words = [VOCABULARY[i] for s in sample_scenes("train", 1500, seed=4) for i in write_caption(s, rng).words]
    mentions = sum(w in SHAPES for w in words)
    for attribute in (SIZES, PATTERNS, COLORS):
        assert abs(sum(w in attribute for w in words) / mentions - captions.ATTRIBUTE_SHARE) < 0.05


def test_two_captions_of_one_scene_differ_and_a_seed_repeats_them(scenes):
    rich = next(s for s in scenes if len(s.things) == 3 and s.sign)
    rng = random.Random(9)
    assert len({tuple(write_caption(rich, rng).words) for _ in range(20)}) > 10
    assert write_caption(rich, random.Random(1)) == write_caption(rich, random.Random(1))


def test_the_vocabulary_has_no_word_twice_and_spells_every_sign():
    assert len(set(VOCABULARY)) == len(VOCABULARY) and INDEX["<pad>"] == 0
    assert all(letter in INDEX for word in WORDS for letter in spell(word))


# ---- descriptions and text maps


def test_a_description_lists_every_item_once_in_the_order_of_the_cells(scenes):
    for scene in scenes:
        rest = [*scene.things, *([scene.sign] if scene.sign else [])]
        cells = []
        for line in describe(scene).split("\n"):
            cell, *words, x, y = line.split()
            cells.append(CELLS.index(cell))
            column, row = ord(cell[0]) - ord("a"), int(cell[1]) - 1
            at = [i for i in rest if i.x // 16 == column and i.y // 16 == row]
            item = only(at)
            assert (int(x[1]), int(y[1])) == (item.x % 16 // 2, item.y % 16 // 2)
            assert words in ([f"sign:{getattr(item, 'word', '')}"], _look_words(item))
            rest.remove(item)
        assert not rest and cells == sorted(cells)


def _look_words(item):
    return [item.size, item.pattern, item.color, item.shape] if hasattr(item, "shape") else []


def test_a_text_map_holds_every_item_in_its_own_cell(scenes):
    for scene in scenes[:100]:
        cells = language.text_map(scene)
        assert [c[0] for c in cells] == list(CELLS)
        filled = {i for i, words in enumerate(cells) if len(words) > 1}
        items = [*scene.things, *([scene.sign] if scene.sign else [])]
        assert filled == {(i.y // 16) * 4 + i.x // 16 for i in items}
    clip = sample_clips("train", 1, seed=3)[0]
    maps = language.clip_map(clip, (0, 3))
    assert len(maps) == 32 and maps[0][:2] == ["f1", "a1"] and maps[31][:2] == ["f2", "d4"]


def test_every_word_of_a_text_map_is_one_token(scenes, tokenizer):
    vocabulary = tokenizer.get_vocab()
    clips = sample_clips("train", 40, seed=3)
    frames = tuple(range(NUM_FRAMES))
    words = {w for s in scenes for cell in language.text_map(s) for w in cell}
    words |= {w for c in clips for cell in language.clip_map(c, frames) for w in cell}
    assert len(words) > 60 and words <= set(vocabulary)


# ---- tokenizer


def round_trip(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids, text
    assert tokenizer.decode(ids) == text
    return ids


def test_every_prompt_and_answer_round_trips(scenes, tokenizer):
    texts = {language.DESCRIBE}
    for kind in STILL_KINDS:
        texts |= {t for _, q in asked(scenes, kind) for t in (q.prompt, q.answer)}
    texts |= {describe(s) for s in scenes[:100]}
    rng = random.Random(0)
    texts |= {ask_clip(c, rng).prompt for c in sample_clips("test", 60, seed=1)} | set(LETTERS)
    texts |= {ask_place(c, rng, SHOWN_FRAMES).prompt for c in sample_clips("test", 60, seed=1)} | set(CELLS)
    texts |= {language.ask_cell(s, rng).prompt for s in scenes[:100]}
    texts |= {describe_clip(c, SHOWN_FRAMES) for c in sample_clips("test", 20, seed=1)}
    assert len(texts) > 500
    for text in texts:
        round_trip(tokenizer, text)


def test_prompts_are_short_because_their_phrases_are_single_tokens(scenes, tokenizer):
    for kind in STILL_KINDS:
        longest = max(len(round_trip(tokenizer, q.prompt)) for _, q in asked(scenes[:60], kind))
        assert longest <= 8, kind


@pytest.mark.parametrize(
    "group",
    [
        CELLS,
        [f"{axis}{i}" for axis in "xy" for i in range(8)],
        [f" {axis}{i}" for axis in "xy" for i in range(8)],
        [f"[{i / 32:.2f}" for i in range(33)],
        [f", {i / 32:.2f}" for i in range(33)],
        [f" {w}" for w in (*SIZES, *PATTERNS, *COLORS, *SHAPES)],
        [*SIZES, *PATTERNS, *COLORS, *SHAPES, *MOVES, "yes", *"1234"],
        [*LETTERS],
    ],
    ids=["cells", "offsets", "offsets-inside", "box-first", "box-next", "words-inside", "words", "letters"],
)
def test_units_are_single_tokens(tokenizer, group):
    assert [len(round_trip(tokenizer, text)) for text in group] == [1] * len(group)


def test_a_box_is_five_tokens_and_a_word_on_a_sign_its_letters(scenes, tokenizer):
    assert {len(round_trip(tokenizer, q.answer)) for _, q in asked(scenes, "rec")} == {5}
    assert {len(round_trip(tokenizer, word)) for word in WORDS} == {3}


def test_printable_ascii_needs_no_unknown_token(tokenizer):
    text = "".join(c for c in string.printable if c.isprintable()) + "\n"
    assert len(text) == 96 and set(round_trip(tokenizer, text)).isdisjoint({tokenizer.unk_token_id})
    rng = random.Random(3)
    for _ in range(200):
        round_trip(tokenizer, "".join(rng.choices(text, k=30)))


def test_other_characters_become_unknown_and_not_an_error(tokenizer):
    assert tokenizer.unk_token_id in tokenizer("é", add_special_tokens=False)["input_ids"]


def test_the_chat_template_splits_at_the_image(tokenizer):
    prompt = "what color is the ring?" + SHORT_ANSWER
    chat = [{"role": "user", "content": IMAGE + "\n" + prompt}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    before, after = text.split(IMAGE)
    assert before == f"{START}user\n"
    assert after == f"\n{prompt}{END}\n{START}assistant\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids(IMAGE)) == 1
    halves = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (before, after)]
    assert [*halves[0], tokenizer.convert_tokens_to_ids(IMAGE), *halves[1]] == ids


def test_special_tokens_have_their_roles(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, END)
    assert len({tokenizer.convert_tokens_to_ids(t) for t in (PAD, START, END, IMAGE, "<unk>")}) == 5
    ids = tokenizer(f"red{END}", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "red"


def test_the_saved_tokenizer_is_the_same_one_and_the_files_do_not_change(tmp_path, tokenizer):
    from transformers import AutoTokenizer

    for name in ("a", "b"):
        write_tokenizer(tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    again = AutoTokenizer.from_pretrained(tmp_path / "a")
    text = f"{START}user\n{IMAGE}\n{BOX_REQUEST}red star{END}"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.get_vocab() == tokenizer.get_vocab()


def test_question_texts_are_plain_words(scenes):
    pattern = re.compile(r"[a-z0-9 ?]+")
    texts = {q.text for kind in STILL_KINDS for _, q in asked(scenes, kind)}
    assert all(pattern.fullmatch(t) for t in texts)
    single = Scene(scenes[0].things[:1], None, 0)
    assert ask(single, "rec", random.Random(0)).text == f"{single.things[0].color} {single.things[0].shape}"
