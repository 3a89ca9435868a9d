#!/bin/sh
# Makes the pictures of these pages anew: `make docs-pictures`. Each command stands on its page.
set -e
cd "$(dirname "$0")/images"
# shellcheck disable=SC2046  # names without blanks
rm -f $(sed -n 's/.*--out \(.*\.webp\)$/\1/p' ../pictures.sh) ./*-segments.png

# pictures.md
t2i generate "a red car on a blue background" --seed 8 --out car.webp
t2i generate "a house on a blue background" --seed 8 --size 256 --out at-once.webp
t2i generate "a house on a blue background" --seed 8 --upscale 2 --out upscaled.webp

# prompts.md
t2i generate "a (tree:0.5) to the left of a house" --seed 18 --out tree-less.webp
t2i generate "a tree to the left of a house" --seed 18 --out tree.webp
t2i generate "a (tree:1.5) to the left of a house" --seed 18 --out tree-more.webp
t2i generate "a cat" --seed 17 --out cat.webp
t2i generate "[a cat:a dog:0.5]" --seed 17 --out cat-dog-late.webp
t2i generate "[a cat:a dog:0.2]" --seed 17 --out cat-dog-early.webp
t2i generate "a dog" --seed 17 --out dog.webp

# guidance.md
t2i generate "a strawberry and a star" --seed 0 --guidance 1 --out guidance-1.webp
t2i generate "a strawberry and a star" --seed 0 --guidance 3 --out guidance-3.webp
t2i generate "a strawberry and a star" --seed 0 --guidance 16 --out guidance-16.webp
t2i generate "a strawberry and a star" --seed 0 --guidance 16 --method apg:norm_threshold=2 --out apg-16.webp

# pipelines.md
t2i generate "a dog" --seed 17 --image cat.webp --strength 0.3 --out strength-3.webp
t2i generate "a dog" --seed 17 --image cat.webp --strength 0.5 --out strength-5.webp
t2i generate "a dog" --seed 17 --image cat.webp --strength 0.7 --out strength-7.webp
t2i generate "a dog" --seed 17 --image cat.webp --strength 0.9 --out strength-9.webp
t2i generate "a tree to the left of a strawberry" --seed 18 --image tree.webp --mask right.png --out masked.webp

# attention.md
t2i inspect "a red apple to the left of a cat" --words apple,cat,left --seed 8 --out where-apple.webp
t2i inspect "a red apple to the left of a cat" --words apple,cat --segment --seed 8 --out where-both.webp
t2i inspect "a blue heart" --words "blue,heart,blue heart" --seed 9 --out where-heart.webp
t2i edit "a cat on a blue background" "a dog on a blue background" --seed 2 --out swap.webp
t2i edit "a red apple on a blue background" "a green apple on a blue background" --seed 7 --out recolour.webp
t2i edit "a star" "a star and a heart" --seed 14 --out addition.webp
t2i edit "a heart" "a blue heart" --seed 7 --out refine.webp
t2i edit "a red apple to the left of a cat" "a red apple to the left of a dog" --blend cat,dog --seed 8 --out blend.webp
t2i edit "a tree to the left of a house" --weight tree=-2 --self-replace 0 --seed 7 --out weight.webp

# controls.md
t2i generate "a cat and a tree" --control segments:layout.png --seed 8 --out layout-plain.webp
t2i generate "a cat and a tree, teal background" --control segments:layout.png --seed 9 --out layout-teal.webp
t2i generate "a rocket above a house" --seed 8 --out rocket.webp
t2i generate "a rocket above a house" --seed 8 --reference photo.png:scale=3 --out rocket-reference.webp

# photos.md
t2i edit --image photo.png "a tree to the left of a cat on a blue background" "a tree to the left of a dog on a blue background" --invert direct --seed 8 --out photo-direct.webp
t2i edit --image photo.png "a tree to the left of a cat on a blue background" "a tree to the left of a dog on a blue background" --invert edit-friendly --seed 8 --out photo-edit-friendly.webp
t2i edit --image photo.png "a tree to the left of a cat on a blue background" "a tree to the left of a dog on a blue background" --invert ddim --seed 8 --out photo-ddim.webp
t2i edit --image photo.png "a tree to the left of a cat on a blue background" "a tree to the left of a dog on a blue background" --invert negative-prompt --seed 8 --out photo-negative-prompt.webp
t2i edit --image photo.png "a tree to the left of a cat on a blue background" "a tree to the left of a dog on a blue background" --invert difference --seed 8 --out photo-difference.webp
t2i edit --image photo.png "a tree to the left of a cat on a blue background" "a tree to the left of a dog on a blue background" --invert turbo --seed 8 --out photo-turbo.webp
t2i edit --image photo.png "a tree to the left of a cat on a blue background" "a tree to the left of a dog on a blue background" --invert bdia --seed 8 --out photo-bdia.webp
t2i edit --image photo.png "a tree to the left of a cat on a blue background" "a tree to the left of a dog on a blue background" --invert null-text --seed 8 --out photo-null-text.webp
t2i edit --image photo.png "a cat on a blue background" "a dog on a blue background" --invert direct --seed 8 --out photo-undescribed.webp
t2i inspect --image photo.png "a tree to the left of a cat on a blue background" --words "tree,cat,blue background" --seed 8 --out photo-words.webp
t2i inspect --image photo.png "a tree to the left of a cat on a blue background" --words cat,dog,house --seed 8 --out photo-concepts.webp
rm -f where-*.safetensors photo-words.safetensors photo-concepts.safetensors ./*-source.* ./*-target*.*
