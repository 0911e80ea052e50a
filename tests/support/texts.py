"""Texts in several scripts, for tests of the tokenizer."""

TEXTS = [
    "Hello world!",
    "",
    "  All human beings \n are born free ",
    "人人生而自由，在尊严和权利上一律平等。",
    "يولد جميع الناس أحرارًا",
    "सभी मनुष्यों को गौरव",
    "𓀀𓀁 unknown 😀",
    "ﬁne Ｆｕｌｌ ㌔",
]
