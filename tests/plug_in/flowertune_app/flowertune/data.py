"""Prompts and answers; every client has some of its own."""

THINGS = {"rose": "red", "leaf": "green", "sky": "blue", "coal": "black", "snow": "white"}
FORMS = ("what colour is a {} ?", "tell me the colour of a {} .", "a {} has which colour ?")
ANSWER = "a {} is {}"
WORDS = sorted(
    {word for form in (*FORMS, ANSWER) for word in form.split() if word != "{}"}
    | {word for pair in THINGS.items() for word in pair}
)


def all_rows(encode):
    """Return every prompt with its answer, as tokens."""
    return [
        (encode(form.format(thing)), encode(ANSWER.format(thing, colour)))
        for form in FORMS
        for thing, colour in THINGS.items()
    ]


def client_rows(encode, partition, partitions):
    """Return a client's prompts and answers: two in three of them all, not the same two."""
    rows = all_rows(encode)
    return [row for place, row in enumerate(rows) if (place + partition) % 3]
