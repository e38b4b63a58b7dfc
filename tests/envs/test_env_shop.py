"""`shop`: pages in WebShop's terms, its reward, and an expert who knows what an episode has shown.

The laws: every goal is fulfilled by the expert within the step limit, and the pages of a product say exactly what it
has.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from running import run

from eexp.envs import open_env
from eexp.envs.changed import _SYNONYMS, read_synonyms
from eexp.envs.worlds.shop import Shop
from eexp.envs.worlds.shopping.catalogue import catalogue_of
from eexp.envs.worlds.shopping.goals import GOALS, PRODUCTS, TEST, effort, goals_of
from eexp.envs.worlds.shopping.goods import product_types
from eexp.envs.worlds.shopping.purchases import nouns_of, reward_of, type_reward
from eexp.envs.worlds.shopping.ranking import COMMON, K1, B, SearchIndex, words_of
from eexp.errors import InputError, UsageError

SEP = " [SEP] "
FIRST_PRODUCT = "B0D6TCFCC0"
FIRST_TEST_GOAL = (
    "Find me a bar stool that is easy to assemble and with footrest, with color: olive, and finish: natural pine, "
    "and price lower than 90.00 dollars"
)


def play(env: Shop, task: dict, most: int = 100) -> tuple[list[str], list[str]]:
    """Play a task as the expert does; return its actions, each of which is listed, and all that was shown."""
    texts, actions = [env.reset(task).text], []
    for _ in range(most):
        if (action := env.expert()) is None:
            break
        assert action in env.admissible()
        observation = env.step(action)
        assert observation.valid
        actions.append(action)
        texts.append(observation.text)
    return actions, texts


# -- catalogues and goals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["shop", "shop?catalogue=3&text=rich"])
def test_the_expert_fulfils_every_goal_with_what_it_has_read(spec):
    with open_env(spec) as env:
        for split, stride in (("train", 31), ("test", 11)):
            for task in islice(env.list_tasks(split), 0, None, stride):
                actions, texts = play(env, task, env.max_steps)
                assert texts[-1].endswith("1") and env.save()[1].score == 1, (task, actions)
                assert env.expert() is env.explain() is None and env.admissible() == []
                bought = next(action for action in reversed(actions) if action.startswith("click[B0"))
                read = "\n".join(texts[:-1]).lower()
                goal = env.save()[0]
                assert bought[6:16].lower() in read and all(attribute in read for attribute in goal.attributes)


def test_goals_take_as_long_as_their_effort_says():
    catalogue = catalogue_of(0)
    env = open_env("shop")
    goals = goals_of(catalogue)["test"]
    different = 0
    for number in range(0, len(goals), 13):
        found = catalogue.index.search(goals[number].queries[0], 50)
        actions, _ = play(env, {"id": f"test/{number}"})
        different += len(actions) != effort(catalogue, goals[number], found)
    assert different == 0


def test_splits_share_no_product():
    goals = goals_of(catalogue_of(1))
    assert len(goals["train"]) == GOALS * (PRODUCTS - TEST) * len(product_types())
    assert len(goals["test"]) == GOALS * TEST * len(product_types())
    targets = [{goal.target.id for goal in goals[split]} for split in ("train", "test")]
    assert not targets[0] & targets[1]
    assert all(reward_of(goal, goal.target, goal.options) == 1 for split in goals.values() for goal in split)


def test_pages_say_what_a_product_has_and_nothing_else():
    buttons = {"back to search", "< prev", "next >", "search", "description", "features", "reviews", "buy now"}
    for product in catalogue_of(2).products:
        says = {
            attribute
            for attribute in product.type.attributes
            if any(product.says(attribute, page) for page in ("title", "features", "description"))
        }
        assert says == set(product.attributes)
        values = [value for _, offered in product.options for value in offered]
        assert len(values) == len(set(values)) and not buttons & set(values)


def test_built_in_synonyms_are_no_words_of_the_shop():
    synonyms = read_synonyms(_SYNONYMS / "shop.toml")
    catalogue = catalogue_of(0)
    texts = [goal.instruction for goals in goals_of(catalogue).values() for goal in goals]
    for product in catalogue.products:
        options = (text for name, values in product.options for text in (name, *values))
        texts += [product.title, product.description, *product.features, *map(str, product.reviews), *options]
    words = set(re.findall("[a-z]+", "\n".join(texts).lower()))
    assert not {word for others in synonyms.values() for word in others} & words
    assert words >= {"color", "price", "buy"}
    with open_env("changed:names:shop") as env:
        observation = env.reset({"id": "test/0", "split": "test"})
        while (action := env.expert()) is not None:
            assert action in env.admissible() and not action.startswith(("search", "click"))
            observation = env.step(action)
        assert observation.success


def test_a_catalogue_is_drawn_from_its_number():
    ids = [{product.id for product in catalogue_of(number).products} for number in range(3)]
    assert len(ids[0]) == PRODUCTS * len(product_types()) and not ids[0] & ids[1] and not ids[1] & ids[2]
    # Written down, so that a Python which draws otherwise is noticed: a record would be of another catalogue.
    assert goals_of(catalogue_of(0))["test"][0].instruction == FIRST_TEST_GOAL
    assert catalogue_of(0).products[0].id == FIRST_PRODUCT


# -- the search ------------------------------------------------------------------------------------------------------


def test_the_search_is_bm25():
    texts = ["red cup", "red red bowl for soup", "blue cup", "green plates", "a plate", "grey jug"]
    index = SearchIndex(texts)

    def score(query: str, text: str) -> float:
        counts, total = Counter(words_of(text)), 0.0
        mean = sum(len(words_of(t)) for t in texts) / len(texts)
        for word in set(words_of(query)):
            holding = sum(word in words_of(t) for t in texts)
            rarity = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            length = sum(counts.values())
            total += rarity * counts[word] * (K1 + 1) / (counts[word] + K1 * (1 - B + B * length / mean))
        return total

    assert COMMON * len(texts) < 2  # so words of two texts are left out
    assert index.search("red cups plates") == []
    for query in ("bowl jug", "blue jug soup"):
        expected = sorted((n for n in range(6) if score(query, texts[n])), key=lambda n: -score(query, texts[n]))
        assert index.search(query) == expected
    assert index.search("bowl jug blue", most=2) == index.search("bowl jug blue")[:2]
    assert index.search("bowl jug blue", among=[0, 2]) == [2]


# -- the reward ------------------------------------------------------------------------------------------------------


def test_the_reward_counts_attributes_options_and_price():
    goal = next(goal for goal in goals_of(catalogue_of(0))["train"] if len(goal.attributes) == 3)
    target, asked = goal.target, len(goal.attributes) + len(goal.options) + 1
    assert asked == 6
    assert reward_of(goal, target, goal.options) == 1
    assert reward_of(goal, target, ()) == round(4 / 6, 4)
    assert reward_of(goal, target, goal.options[:1]) == round(5 / 6, 4)
    dear = replace(target, cents=100 * goal.dollars + 1)
    assert reward_of(goal, dear, goal.options) == round(5 / 6, 4)
    assert reward_of(goal, replace(target, cents=100 * goal.dollars), goal.options) == 1
    lacking = replace(target, attributes=goal.attributes[1:])
    assert reward_of(goal, lacking, goal.options) == round(5 / 6, 4)
    other = next(p for p in catalogue_of(0).products if not nouns_of(p) & nouns_of(target))
    assert reward_of(goal, replace(other, attributes=goal.attributes), goal.options) == 0


def test_the_type_reward_has_four_levels():
    catalogue = catalogue_of(0)
    one = replace(catalogue.products[0], uses=("a b c", "d e f", "g h i j"))
    far = next(p for p in catalogue.products if p.type.department != one.type.department)
    own_words = far.type.name.split()
    assert not {*own_words, far.brand.lower()} & nouns_of(one)
    total = len(nouns_of(one))
    assert type_reward(one, replace(far, uses=("x",))) == 0
    assert total > 10 and type_reward(one, replace(far, uses=("a",))) == 0.1
    assert 0.1 < 2 / total < 0.2 and type_reward(one, replace(far, uses=("a b",))) == 0.5
    near = replace(far, uses=("a b",), type=replace(far.type, category=one.type.category))
    assert type_reward(one, near) == 1
    assert type_reward(one, replace(far, uses=("a b c d",))) == 1


# -- pages -----------------------------------------------------------------------------------------------------------


def test_pages_and_where_clicks_lead():
    env = open_env("shop")
    goal = goals_of(catalogue_of(0))["test"][0]
    head = f"Instruction:{SEP}{goal.instruction}{SEP}"
    search_page = env.reset({"id": "test/0"}).text
    assert search_page == f"WebShop{SEP}{head}Search"
    results = env.step(f"search[{goal.target.type.name}]")
    assert results.text.startswith(f"{head}Back to Search{SEP}Page 1 (Total results: 50){SEP}Next >{SEP}B0")
    assert results.unknown and all(results.text[a:b] for a, b in results.unknown)
    second = env.step("click[Next >]")
    assert f"Page 2 (Total results: 50){SEP}< Prev{SEP}Next >{SEP}B0" in second.text
    assert second.text.count("$") == 10 and len(env.admissible()) == 13
    again = env.step("click[< prev]")
    assert again.text == results.text and again.unknown is None
    product = env.admissible()[2][len("click[") : -1]
    item = env.step(f"click[{product.lower()}]")
    assert item.text.endswith(SEP.join(("Description", "Features", "Reviews", "Buy Now")))
    assert f"{SEP}Price: $" in item.text and f"{SEP}Rating: " in item.text
    value = env.admissible()[2]
    chosen = env.step(value)
    assert (chosen.text, chosen.changed) == (item.text, True)
    assert env.step(value).changed is None  # it was chosen already
    assert env.step("click[Features]").text != item.text
    assert env.step("click[< Prev]").text == item.text
    assert env.save()[1].options  # they stay while the item is looked at
    env.step("click[< Prev]")
    assert env.save()[1].options == ()
    assert env.step("click[Back to Search]").text == search_page


def test_the_rich_text_marks_buttons_and_what_was_chosen():
    env = open_env("shop?text=rich")
    env.reset({"id": "test/0"})
    assert env.step(env.expert()).text.count("\n[button] B0") == 10
    item = env.step(env.expert())
    choice = next(action for action in env.admissible() if f"  [button] {action[6:-1]} [button_]" in item.text)
    chosen = env.step(choice)
    assert chosen.text.startswith(f"You have clicked {choice[6:-1]}.\nInstruction:") and chosen.changed is None
    assert f"  [clicked button] {choice[6:-1]} [clicked button_]" in chosen.text
    assert all(chosen.text[a:b] in item.text for a, b in item.unknown or [])


def test_what_the_page_does_not_allow_shows_it_again():
    env = open_env("shop")
    before = env.reset({"id": "test/0"})
    for action in ("click[Buy Now]", "click[Search]", "search[]", "search[ , ]", "buy", "click[B000000000]"):
        observation = env.step(action)
        assert (observation.valid, observation.text) == (False, before.text), action
    results = env.step("search[no such thing]")
    assert results.valid and "(Total results: " in results.text
    assert not env.step("search[rain jacket]").valid  # there is no search bar
    assert env.step("click[back to search]").text == before.text
    while (action := env.expert()) is not None:
        env.step(action)
    over = env.step("click[Buy Now]")
    assert over.done and not over.valid and over.score == 1


def test_a_purchase_that_lacks_something_is_no_success():
    env = open_env("shop")
    env.reset({"id": "test/0"})
    env.step(env.expert())
    env.step(env.admissible()[3])
    end = env.step("click[Buy Now]")
    assert end.done and end.success is False and 0 < end.score < 1
    assert end.text == f"Thank you for shopping with us!{SEP}Your score (min 0.0, max 1.0){SEP}{end.score:g}"
    assert [end.text[a:b] for a, b in end.unknown] == [f"{end.score:g}"]


def test_the_expert_goes_on_after_detours():
    rng = random.Random(0)
    env = open_env("shop")
    for number in range(20):
        env.reset({"id": f"train/{number}"})
        for _ in range(6):
            env.step(rng.choice([action for action in env.admissible() if action != "click[Buy Now]"]))
        while (action := env.expert()) is not None:
            observation = env.step(action)
        assert observation.success


def test_explanations_name_what_was_read():
    env = open_env("shop")
    env.reset({"id": "test/0"})
    assert env.explain().endswith("Nothing has been searched for yet.")
    for _ in range(30):
        known = env.explain()
        goal, visit = env.save()
        if visit.page == "item" and "has all" in known:
            pages = ["title", *(page.lower() for number, page in visit.read if number == visit.item and page)]
            product = catalogue_of(0).products[visit.item]
            assert all(any(product.says(a, page) for page in pages if page != "reviews") for a in goal.attributes)
        if env.step(env.expert()).done:
            break
    assert env.explain() is None


def test_wrong_options_and_tasks():
    for spec in ("shop?catalogue=x", "shop?text=html", "shop?max_steps=0"):
        with pytest.raises(UsageError):
            open_env(spec)
    env = open_env("shop?catalogue=4&max_steps=9")
    assert env.max_steps == 9
    assert env.kind_of({"id": "test/0"}) in {kind.department for kind in product_types()}
    for task in ({"id": "test/400"}, {"id": "test/x"}, {"id": "dev/0"}, {}, {"id": "test/0", "world": "shop-0"}):
        with pytest.raises(InputError):
            env.reset(task)


def test_the_pipe_from_demonstrations_to_examples():
    expert = run("expert", "shop", "-n", 2).ok()
    branched = run("branch", "-k", 4, "--from", "admissible", stdin=expert.out).ok()
    rollout = run("rollout", stdin=branched.out).ok()
    assert "all equal" in rollout.err
    thoughts = run("reflect", "--rationale", "environment", stdin=rollout.out).ok()
    examples = run("imitation-data", stdin=expert.out).ok().records
    assert len(examples) == sum(len(record["steps"]) for record in expert.records) >= len(thoughts.records) > 15
    assert all("Wanted: " in record["completion"][0]["content"] for record in thoughts.records)
