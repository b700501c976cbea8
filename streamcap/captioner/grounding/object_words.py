"""The words that name COCO's 80 object classes in captions, and which classes a caption names.

Words are lower case, as `training.data.text.normalize` leaves them. The list follows the synonyms of Rohrbach et al.
2018, "Object Hallucination in Image Captioning" (CHAIR), without words that mostly mean something else in captions
(glass, bat, racing) and with the words that Flickr8k's captions use for people and dogs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_PERSON = (
    "person people man men woman women boy boys girl girls child children kid kids baby babies toddler toddlers lady "
    "ladies guy guys adult adults teenager teenagers crowd couple someone pedestrian pedestrians worker workers player "
    "players skier skiers snowboarder snowboarders surfer surfers skateboarder skateboarders biker bikers cyclist "
    "cyclists bicyclist bicyclists motorcyclist motorcyclists rider riders runner runners climber climbers swimmer "
    "swimmers hiker hikers dancer dancers performer performers cowboy cowboys fisherman soldier soldiers officer "
    "officers police policeman policemen family friends youth male female bride groom toddler infant humans human "
    "student students passenger passengers driver chef cook pitcher batter catcher umpire spectator spectators shopper "
    "shoppers"
)

OBJECTS: Final[dict[str, tuple[str, ...]]] = {
    "person": tuple(dict.fromkeys(_PERSON.split())),
    "bicycle": ("bicycle", "bicycles"),
    "car": ("car", "cars", "taxi", "taxis", "cab", "sedan", "suv", "jeep", "minivan", "automobile", "automobiles"),
    "motorcycle": ("motorcycle", "motorcycles", "motorbike", "motorbikes", "dirt bike", "moped", "mopeds"),
    "airplane": ("airplane", "airplanes", "plane", "planes", "jet", "jets", "aeroplane", "aircraft", "airliner"),
    "bus": ("bus", "buses", "trolley"),
    "train": ("train", "trains", "locomotive", "tram", "subway"),
    "truck": ("truck", "trucks", "pickup", "lorry", "firetruck", "van", "vans"),
    "boat": ("boat", "boats", "ship", "ships", "sailboat", "sailboats", "canoe", "canoes", "kayak", "kayaks", "raft",
             "ferry", "yacht", "rowboat"),
    "traffic light": ("traffic light", "traffic lights", "stoplight", "stoplights", "traffic signal"),
    "fire hydrant": ("fire hydrant", "fire hydrants", "hydrant", "hydrants"),
    "stop sign": ("stop sign", "stop signs"),
    "parking meter": ("parking meter", "parking meters"),
    "bench": ("bench", "benches", "pew"),
    "bird": ("bird", "birds", "pigeon", "pigeons", "seagull", "seagulls", "duck", "ducks", "goose", "geese", "parrot",
             "parrots", "owl", "eagle", "penguin", "chicken", "chickens", "swan", "swans", "flamingo", "flamingos",
             "ostrich", "crow"),
    "cat": ("cat", "cats", "kitten", "kittens", "kitty"),
    "dog": ("dog", "dogs", "puppy", "puppies", "poodle", "greyhound", "greyhounds", "terrier", "labrador", "beagle",
            "retriever", "collie", "dalmatian", "chihuahua", "doggy"),
    "horse": ("horse", "horses", "pony", "ponies", "foal"),
    "sheep": ("sheep", "lamb", "lambs", "ram"),
    "cow": ("cow", "cows", "cattle", "bull", "bulls", "calf", "oxen", "ox"),
    "elephant": ("elephant", "elephants"),
    "bear": ("bear", "bears", "panda", "pandas", "polar bear", "polar bears"),
    "zebra": ("zebra", "zebras"),
    "giraffe": ("giraffe", "giraffes"),
    "backpack": ("backpack", "backpacks", "rucksack"),
    "umbrella": ("umbrella", "umbrellas", "parasol"),
    "handbag": ("handbag", "handbags", "purse", "purses"),
    "tie": ("tie", "ties", "necktie"),
    "suitcase": ("suitcase", "suitcases", "luggage", "briefcase"),
    "frisbee": ("frisbee", "frisbees"),
    "skis": ("skis",),
    "snowboard": ("snowboard", "snowboards"),
    "sports ball": ("ball", "balls", "football", "basketball", "soccer ball", "tennis ball", "baseball ball",
                    "volleyball", "beach ball"),
    "kite": ("kite", "kites"),
    "baseball bat": ("baseball bat", "baseball bats", "bat", "bats"),
    "baseball glove": ("baseball glove", "baseball gloves", "mitt", "mitts"),
    "skateboard": ("skateboard", "skateboards"),
    "surfboard": ("surfboard", "surfboards"),
    "tennis racket": ("tennis racket", "tennis rackets", "racket", "rackets", "racquet"),
    "bottle": ("bottle", "bottles"),
    "wine glass": ("wine glass", "wine glasses", "wineglass"),
    "cup": ("cup", "cups", "mug", "mugs"),
    "fork": ("fork", "forks"),
    "knife": ("knife", "knives"),
    "spoon": ("spoon", "spoons"),
    "bowl": ("bowl", "bowls"),
    "banana": ("banana", "bananas"),
    "apple": ("apple", "apples"),
    "sandwich": ("sandwich", "sandwiches", "burger", "hamburger", "sub"),
    "orange": ("oranges", "tangerine", "clementine"),
    "broccoli": ("broccoli",),
    "carrot": ("carrot", "carrots"),
    "hot dog": ("hot dog", "hot dogs", "hotdog", "hotdogs"),
    "pizza": ("pizza", "pizzas"),
    "donut": ("donut", "donuts", "doughnut", "doughnuts"),
    "cake": ("cake", "cakes", "cupcake", "cupcakes"),
    "chair": ("chair", "chairs", "stool", "stools", "armchair", "armchairs"),
    "couch": ("couch", "couches", "sofa", "sofas", "loveseat"),
    "potted plant": ("potted plant", "potted plants", "houseplant", "houseplants"),
    "bed": ("bed", "beds"),
    "dining table": ("dining table", "dining tables", "table", "tables"),
    "toilet": ("toilet", "toilets", "urinal", "urinals"),
    "tv": ("tv", "tvs", "television", "televisions", "monitor", "monitors"),
    "laptop": ("laptop", "laptops"),
    "mouse": ("computer mouse", "computer mice", "mouse"),
    "remote": ("remote", "remotes", "remote control"),
    "keyboard": ("keyboard", "keyboards"),
    "cell phone": ("cell phone", "cell phones", "cellphone", "cellphones", "smartphone", "phone", "phones"),
    "microwave": ("microwave", "microwaves"),
    "oven": ("oven", "ovens", "stove", "stoves"),
    "toaster": ("toaster", "toasters"),
    "sink": ("sink", "sinks"),
    "refrigerator": ("refrigerator", "refrigerators", "fridge", "fridges"),
    "book": ("book", "books"),
    "clock": ("clock", "clocks"),
    "vase": ("vase", "vases"),
    "scissors": ("scissors",),
    "teddy bear": ("teddy bear", "teddy bears", "teddy", "stuffed bear", "stuffed animal", "stuffed animals"),
    "hair drier": ("hair drier", "hair driers", "hair dryer", "hair dryers"),
    "toothbrush": ("toothbrush", "toothbrushes"),
}  # fmt: skip
"""Class to the words and pairs of words that name it, in COCO's order."""

VEHICLES: Final = frozenset(("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"))
_ANIMALS = frozenset(("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"))
_FOOD = frozenset(
    ("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake")
)  # fmt: skip
GENERAL: Final[dict[str, frozenset[str]]] = {
    "bike": frozenset(("bicycle", "motorcycle")),
    "bikes": frozenset(("bicycle", "motorcycle")),
    "vehicle": VEHICLES,
    "vehicles": VEHICLES,
    "traffic": VEHICLES,
    "animal": _ANIMALS,
    "animals": _ANIMALS,
    "food": _FOOD,
    "fruit": _FOOD,
    "fruits": _FOOD,
}
"""Words that stand for any one of several classes."""


@dataclass(frozen=True, slots=True)
class Mention:
    """One object word of a caption."""

    word: str
    classes: frozenset[str]
    """The word is true where the image shows any of these."""

    @property
    def general(self) -> bool:
        """Whether the word leaves open which class it is."""
        return len(self.classes) > 1


def _table() -> dict[tuple[str, ...], frozenset[str]]:
    exact = {tuple(word.split()): frozenset((name,)) for name, words in OBJECTS.items() for word in words}
    return exact | {(word,): classes for word, classes in GENERAL.items()}


_TABLE = _table()


def find_mentions(text: str) -> list[Mention]:
    """The object words of a caption in order; of two that overlap the longer one (`hot dog` is no dog)."""
    words = text.lower().replace(".", " ").replace(",", " ").split()
    found: list[Mention] = []
    at = 0
    while at < len(words):
        for length in (2, 1):
            key = tuple(words[at : at + length])
            if len(key) == length and key in _TABLE:
                found.append(Mention(" ".join(key), _TABLE[key]))
                at += length
                break
        else:
            at += 1
    return found
