"""A few kB of general text of our own, in several registers, by which it is seen what an adapter makes of the rest.

Written for Loramill, so nobody was trained on it before it was published here. A passage that is changed makes scores
of earlier evaluations incomparable: add others in its place, and raise the version.
"""

from typing import Final

GENERAL_TEXT_VERSION: Final = 1

PASSAGES: Final[tuple[tuple[str, str], ...]] = (
    (
        "news",
        "The council voted on Tuesday to keep the old swimming pool open for another two years while engineers "
        "look at the roof. Repairs are expected to cost less than a new building, according to a report that was "
        "published last month, but the town would have to close the pool for one winter. Residents who had "
        "collected signatures said that they were relieved.",
    ),
    (
        "encyclopedia",
        "A watershed is the line that separates neighbouring drainage basins. On one side of it rain flows into "
        "one river, on the other side into another. In hilly country it follows the ridges and is easy to see; on "
        "flat ground it may lie hidden in a swamp, and there water can flow either way depending on the season.",
    ),
    (
        "story",
        "When Marta opened the door of the lighthouse, the lamp was already turning. Nobody had lit it. She put "
        "down the basket, listened to the gears for a while, and then climbed the stairs without a candle, "
        "counting the steps as her father had taught her, because the eleventh one was loose.",
    ),
    (
        "conversation",
        '"Did you bring the tickets?" "I thought you had them." "No, I gave them to you at the station, in the '
        'blue envelope." "Oh. Then they are in my other coat." "We have forty minutes. If you take the tram you '
        'can be back before it starts." "And if I miss it?" "Then we will see the second half."',
    ),
    (
        "instructions",
        "Before you replace the filter, switch the machine off and let it cool for ten minutes. Turn the cover to "
        "the left until it clicks, lift it, and pull the filter out by its handle. Rinse the new filter under "
        "cold water. Put it in with the arrow pointing down, close the cover, and run the machine once without "
        "coffee.",
    ),
    (
        "letter",
        "Dear Ms. Okafor, thank you for your letter of 3 March. We have looked into the delay and found that your "
        "parcel was sent to an address that you had changed in January. We are sorry for the trouble this has "
        "caused. A second parcel left our warehouse this morning, and the postage has been refunded to your "
        "account. Yours sincerely,",
    ),
    (
        "science",
        "We measured the height of 240 seedlings after six weeks. Seedlings that had grown under blue light were "
        "shorter on average than those under white light, but the difference was smaller than the spread within "
        "each group. A second experiment with more seeds of a single variety would be needed to tell the two "
        "apart.",
    ),
    (
        "arithmetic",
        "A train leaves at 9:40 and needs 2 hours and 35 minutes, so it arrives at 12:15. If it is 20 minutes "
        "late, it arrives at 12:35. Three tickets at 18 euros each cost 54 euros; with a discount of one third "
        "they cost 36 euros. Half of 36 is 18, and a quarter of it is 9.",
    ),
    (
        "code",
        "def moving_average(values, width):\n"
        '    """Return the mean of each run of `width` values."""\n'
        "    if width < 1:\n"
        '        raise ValueError("width must be at least 1")\n'
        "    total = sum(values[:width])\n"
        "    means = [total / width]\n"
        "    for old, new in zip(values, values[width:]):\n"
        "        total += new - old\n"
        "        means.append(total / width)\n"
        "    return means\n",
    ),
    (
        "data",
        '{"order": 1042, "customer": {"name": "Lin", "city": "Porto"}, "items": [{"sku": "A-7", "count": 2, '
        '"price": 9.5}, {"sku": "C-1", "count": 1, "price": 30.0}], "paid": true, "notes": null}\n'
        "name,city,orders\n"
        "Lin,Porto,12\n"
        "Sara,Gent,3\n"
        "Omar,Tunis,7\n",
    ),
    (
        "German",
        "Am Morgen lag Nebel über dem Hafen, und die Fähre fuhr langsamer als sonst. Auf dem Deck standen nur "
        "wenige Leute; die meisten saßen drinnen, tranken Kaffee und warteten, bis die Insel zu sehen war. Als "
        "die Sonne durchkam, gingen alle hinaus, und ein Kind rief, es habe einen Seehund gesehen.",
    ),
    (
        "Spanish",
        "La biblioteca del barrio abre de lunes a sábado, de nueve a ocho. Para llevarse un libro basta con un "
        "carné, que es gratuito y se hace en el mostrador. Los libros se pueden devolver en cualquier biblioteca "
        "de la ciudad, y si alguien los espera, no se pueden renovar.",
    ),
)
