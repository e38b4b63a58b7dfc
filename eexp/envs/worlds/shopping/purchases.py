"""What a purchase is worth, by the reward of WebShop (Yao et al. 2022, arXiv 2207.01206, section 3.1 and appendix)."""

from __future__ import annotations

from eexp.envs.worlds.shopping.catalogue import Options, Product
from eexp.envs.worlds.shopping.goals import Goal


def reward_of(goal: Goal, product: Product, options: Options) -> float:
    """Return the reward of a purchase, from 0 to 1, rounded to four digits.

    It is the share of what the goal asks for and the purchase has (attributes, options, price), times how well its type
    fits. It is 1 only if everything holds.
    """
    attributes = sum(attribute in product.attributes for attribute in goal.attributes)
    chosen = sum(option in options for option in goal.options)
    price = product.cents <= 100 * goal.dollars
    asked = len(goal.attributes) + len(goal.options) + 1
    return round(type_reward(goal.target, product) * (attributes + chosen + price) / asked, 4)


def type_reward(target: Product, product: Product) -> float:
    """Return how well the type of a product fits that of the target: 1, 0.5, 0.1 or 0.

    Without a common noun in their titles it is 0, with less than a tenth of the target's it is 0.1. Else it is 1 if
    more than a fifth are common, or the types are the same, or two parts of their categories; and 0.5 if not.
    """
    wanted = nouns_of(target)
    common = len(wanted & nouns_of(product)) / len(wanted)
    if not common:
        return 0.0
    if common < 0.1:
        return 0.1
    same = product.type.name == target.type.name or len({*product.type.category} & {*target.type.category}) >= 2
    return 1.0 if common > 0.2 or same else 0.5


def nouns_of(product: Product) -> set[str]:
    """Return the nouns of a title: of the brand, of the type and of what it is sold for.

    WebShop finds nouns with a tagger; here they are known.
    """
    return {word.lower() for part in (product.brand, product.type.name, *product.uses) for word in part.split()}
