"""The 80 classes of COCO and the words by which captions name them.

The list of words is ours (the authors of CHAIR have another one, so that numbers are near theirs and not the same). It
holds common nouns of which a class is the usual meaning in a caption; where a word has several, the class wins:
"orange" is the fruit, "bike" a bicycle, "mouse" the animal's namesake beside a computer.
"""

from __future__ import annotations

# each class with its other words in the singular; plurals are made, those that are irregular stand with the words
WORDS: dict[str, str] = {
    "person": "people man men woman women child children kid boy girl baby toddler infant lady guy gentleman adult "
    "player skier snowboarder skateboarder skater surfer rider cyclist bicyclist biker driver passenger pedestrian "
    "worker officer policeman policemen policewoman cop soldier fireman firemen chef cook waiter waitress bride groom "
    "mother father mom dad son daughter brother sister husband wife couple crowd tourist student teacher batter "
    "catcher umpire teenager teen male female spectator fisherman fishermen farmer businessman businessmen",
    "bicycle": "bike tricycle",
    "car": "automobile sedan suv minivan van taxi cab jeep limousine limo hatchback",
    "motorcycle": "motorbike moped scooter motor_bike motor_cycle",
    "airplane": "plane aeroplane jet airliner jetliner aircraft biplane seaplane air_plane",
    "bus": "minibus double_decker",
    "train": "locomotive tram trolley_car",
    "truck": "lorry pickup firetruck fire_truck fire_engine pickup_truck semi tractor_trailer dump_truck",
    "boat": "ship sailboat motorboat speedboat canoe kayak yacht ferry rowboat gondola raft dinghy barge sail_boat",
    "traffic light": "stoplight traffic_signal stop_light",
    "fire hydrant": "hydrant fire_plug",
    "stop sign": "",
    "parking meter": "",
    "bench": "pew",
    "bird": "seagull gull pigeon duck goose geese swan owl parrot eagle hawk crow sparrow ostrich flamingo pelican "
    "chicken rooster hen peacock penguin",
    "cat": "kitten kitty",
    "dog": "puppy pup terrier poodle bulldog retriever labrador dachshund collie beagle sheepdog sheep_dog",
    "horse": "pony foal stallion mare",
    "sheep": "lamb ram ewe",
    "cow": "cattle bull calf calves ox oxen heifer steer",
    "elephant": "",
    "bear": "panda grizzly",
    "zebra": "",
    "giraffe": "",
    "backpack": "rucksack knapsack back_pack",
    "umbrella": "parasol",
    "handbag": "purse hand_bag pocketbook",
    "tie": "necktie bowtie bow_tie neck_tie",
    "suitcase": "luggage baggage briefcase suit_case",
    "frisbee": "",
    "skis": "ski",
    "snowboard": "snow_board",
    "sports ball": "ball basketball football volleyball softball soccer_ball tennis_ball beach_ball",
    "kite": "",
    "baseball bat": "",
    "baseball glove": "mitt baseball_mitt",
    "skateboard": "skate_board longboard",
    "surfboard": "surf_board bodyboard",
    "tennis racket": "racket racquet tennis_racquet",
    "bottle": "wine_bottle beer_bottle water_bottle",
    "wine glass": "wineglass wine_glasses goblet",
    "cup": "mug teacup coffee_cup tea_cup coffee_mug",
    "fork": "",
    "knife": "knives pocketknife",
    "spoon": "",
    "bowl": "",
    "banana": "",
    "apple": "",
    "sandwich": "burger hamburger cheeseburger sub panini",
    "orange": "tangerine mandarin clementine",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cupcake cheesecake cup_cake birthday_cake wedding_cake",
    "chair": "armchair stool rocking_chair arm_chair recliner",
    "couch": "sofa loveseat futon",
    "potted plant": "houseplant plant house_plant",
    "bed": "bunk_bed mattress crib",
    "dining table": "table desk coffee_table picnic_table kitchen_table dinner_table computer_desk",
    "toilet": "urinal commode toilet_seat toilet_bowl",
    "tv": "television monitor tv_set tv_screen television_set television_screen computer_monitor computer_screen",
    "laptop": "computer notebook macbook laptop_computer",
    "mouse": "mice computer_mouse",
    "remote": "remote_control controller game_controller wii_remote wii_controller",
    "keyboard": "computer_keyboard",
    "cell phone": "phone cellphone smartphone telephone iphone mobile_phone smart_phone",
    "microwave": "microwave_oven",
    "oven": "stove stovetop stove_top_oven",
    "toaster": "toaster_oven",
    "sink": "washbasin basin bathroom_sink kitchen_sink",
    "refrigerator": "fridge freezer",
    "book": "novel textbook",
    "clock": "clock_tower alarm_clock",
    "vase": "",
    "scissors": "",
    "teddy bear": "teddy stuffed_bear",
    "hair drier": "hair_dryer hairdryer blow_dryer",
    "toothbrush": "tooth_brush",
}

# phrases that name no class though one of their words does
_NOTHING = (
    "train_track train_station train_yard bus_stop bus_station home_plate license_plate toilet_paper table_cloth "
    "table_tennis ski_lift ski_slope ski_pole ski_resort ski_lodge chair_lift mouse_pad phone_booth dog_house "
    "bird_house bird_bath cat_food dog_food boat_house book_store book_case piano_keyboard ball_park cd_player "
    "dvd_player record_player apple_pie banana_bread orange_juice"
)

# words for people that say of what follows only how old it is, or whom it carries
_QUALIFIED = {
    "baby adult mother father male female": "bird cat dog horse sheep cow elephant bear zebra giraffe",
    "passenger": "airplane train bus car boat",
}


def _phrases(words: str) -> list[str]:
    """Each phrase of a list and its plural."""
    singular = [phrase.replace("_", " ") for phrase in words.split()]
    return [*singular, *map(_plural, singular)]


def _plural(phrase: str) -> str:
    if phrase.endswith(("s", "x", "ch", "sh")):
        return phrase + "es"
    return phrase[:-1] + "ies" if phrase.endswith("y") and phrase[-2] not in "aeiou" else phrase + "s"


def _name_classes() -> dict[str, str | None]:
    named: dict[str, str | None] = dict.fromkeys(_phrases(_NOTHING))
    for name, words in WORDS.items():
        named |= dict.fromkeys(_phrases(f"{name.replace(' ', '_')} {words}"), name)
    for qualifiers, names in _QUALIFIED.items():
        for phrase, name in list(named.items()):
            if name is not None and name in names.split():
                named |= {f"{qualifier} {phrase}": name for qualifier in qualifiers.split()}
    return named


CLASSES = tuple(WORDS)
NAMED = _name_classes()  # phrase in small letters -> the class that it names, or None
LONGEST = max(len(phrase.split()) for phrase in NAMED)  # words of a phrase
