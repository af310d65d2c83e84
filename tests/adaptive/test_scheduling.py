from adaptive.scheduling import largest_first


def test_results_come_in_the_items_order_whatever_was_begun_first():
    begun = []

    def square(n: int) -> int:
        begun.append(n)
        return n * n

    assert largest_first(square, [3, 1, 2], float) == [9, 1, 4]
    assert begun[0] == 3
    assert largest_first(square, [], float) == []
